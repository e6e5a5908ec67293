//! `cairn-csi`: serves the SnapshotMetadata service of the Container Storage Interface on a Unix socket.

use cairn_csi::routes::SnapshotMetadataServer;
use cairn_csi::service::SnapshotMetadata;
use cairn_target::paths::Paths;
use cairn_target::unix_socket::PrivateListener;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{signal, SignalKind};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// Which blocks of snapshots are in use and which changed, for container orchestrators
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen: the path of a Unix socket, also written unix://PATH
    #[arg(long, value_name = "PATH")]
    endpoint: String,
    /// Where the configuration of volumes is kept [default: CAIRN_STATE_DIR, else /var/lib/cairn]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the sockets of attached volumes are [default: CAIRN_RUN_DIR, else /run/cairn]
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let path = arguments.endpoint.strip_prefix("unix://").unwrap_or(&arguments.endpoint);
    let paths = Paths::resolve(arguments.state_dir, arguments.run_dir, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (listener, _name) = PrivateListener::bind(path.as_ref())?.into_parts();
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stopped = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let service = SnapshotMetadataServer::new(SnapshotMetadata::new(paths));
        tracing::info!(path, "serving");
        Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, stopped).await?;
        Ok(())
    })
}
