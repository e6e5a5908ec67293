//! What every verb works with: where things are, how to speak, and how to reach a volume.

use crate::arguments::Common;
use crate::client::Client;
use crate::exit::Failure;
use crate::names::VolumeName;
use crate::output::Output;
use cairn_target::config::VolumeConfig;
use cairn_target::paths::Paths;

/// What every verb works with.
pub struct Context {
    /// Where things are.
    pub paths: Paths,
    /// How to speak.
    pub output: Output,
}

impl Context {
    /// From the options that every verb takes.
    pub fn new(common: Common) -> Context {
        Context {
            paths: Paths::resolve(common.state_dir, common.run_dir, common.dev_dir),
            output: Output { json: common.json, yes: common.yes },
        }
    }

    /// The configuration of a volume; fails where there is none.
    pub fn config(&self, volume: &VolumeName) -> Result<VolumeConfig, Failure> {
        Ok(VolumeConfig::load(&self.paths, volume.as_str())?)
    }

    /// A client of the target that serves `volume`. Fails where there is no such volume; whether it is attached shows
    /// with the first request.
    pub fn client(&self, volume: &VolumeName) -> Result<Client, Failure> {
        let config = self.config(volume)?;
        Ok(self.client_of(&config))
    }

    /// A client of the target that serves the volume of this configuration.
    pub fn client_of(&self, config: &VolumeConfig) -> Client {
        let paths = self.paths.volume(&config.name).expect("a configuration that was read has a legal name");
        Client::new(&config.name, &paths.control_socket())
    }
}
