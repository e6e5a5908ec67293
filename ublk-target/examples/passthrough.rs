//! A ublk device that shows another disk as it is: the frontend alone, for measuring what it costs and for trying it.
//!
//!     passthrough DISK [--recover N]
//!
//! Prints the device's path when it is there; stops it at the end of its input.

use cairn_engine::disk::Disk;
use cairn_engine::error::Result;
use cairn_target::device::{Access, Device};
use cairn_target::nbd::Export;
use cairn_target::ublk::service::{Service, ServiceFactory};
use cairn_target::ublk::{Options, Origin, QueueDisk, QueueRing, Shape, UblkDevice};
use libublk::UblkError;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::Arc;

struct Passthrough(QueueDisk);

impl Export for Passthrough {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sector_bytes(&self) -> u32 {
        self.0.sector_bytes()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn can_discard(&self) -> bool {
        self.0.discard_bytes_max() > 0
    }
    async fn read(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<()> {
        self.0.read(offset_bytes, buffer).await
    }
    async fn write(&self, offset_bytes: u64, data: &[u8], durable: bool) -> Result<()> {
        if durable {
            return self.0.write_durable(offset_bytes, data).await;
        }
        self.0.write(offset_bytes, data).await
    }
    async fn write_zeroes(&self, offset_bytes: u64, length_bytes: u64, durable: bool, may_unmap: bool) -> Result<()> {
        self.0.write_zeroes(offset_bytes, length_bytes, may_unmap).await?;
        if durable {
            self.0.flush().await?;
        }
        Ok(())
    }
    async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.0.discard(offset_bytes, length_bytes).await
    }
    async fn flush(&self) -> Result<()> {
        self.0.flush().await
    }
}

impl Service for Passthrough {
    async fn tick(&self) -> Result<()> {
        Ok(())
    }
}

struct Factory(Arc<Device>);

impl ServiceFactory for Factory {
    type Service = Passthrough;
    fn files(&self) -> Vec<RawFd> {
        vec![self.0.raw_fd()]
    }
    fn make(&self, _queue: u16, ring: QueueRing) -> std::result::Result<Passthrough, UblkError> {
        Ok(Passthrough(QueueDisk::new(self.0.clone(), ring)))
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let disk = arguments.get(1).expect("the first argument is the disk");
    let origin = match arguments.get(2).map(String::as_str) {
        Some("--recover") => Origin::Recover(arguments[3].parse().expect("a device number")),
        _ => Origin::New,
    };
    let device = Device::open(Path::new(disk), Access::Exclusive { wait_ms: 35_000 })?;
    let shape = Shape { size_bytes: device.size_bytes(), limits: device.limits().clone(), read_only: false };
    let options = Options { queues: 2, depth: 128, shape, origin };
    let mut served = UblkDevice::start(options, Factory(device), |_| Ok(()))?;
    println!("{}", served.path().display());
    loop {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).expect("input is readable");
        match served.stop() {
            Ok(()) => return Ok(()),
            Err(refused) => {
                println!("refused: {}", refused.error);
                if line.is_empty() {
                    std::process::exit(1);
                }
                served = refused.device;
            }
        }
    }
}
