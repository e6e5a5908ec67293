//! The machine that workloads run on: two small disks on one tape, and the volume attached to them.
//!
//! Invariants:
//! - Everything here is deterministic: the same image gives the same attach, request by request.
//! - No fault is injected, so no snapshot may break, no attach may fail and no read may fail.

use super::alphabet::{GROWTH_BLOCKS, VOLUME_BLOCKS};
use super::pages::Image;
use super::tape::{Device, Lie, Shape, Tape, TapeDisk};
use super::verdict::{numbers, Found, FoundSnapshot, TOLD};
use crate::disk::{aligned_buffer, Disk, Disks};
use crate::error::Error;
use crate::format::geometry::{Geometry, AREA_BYTES_MIN, SEGMENT_BYTES_MIN};
use crate::holes::Holes;
use crate::lane::Lane;
use crate::sim::executor::block_on;
use crate::sim::picture::Picture;
use crate::sim::rig::{create_options, open_options, StateDirectory};
use crate::sim::stamp::stamp;
use crate::snapshot::SnapshotName;
use crate::units::{BLOCK_BYTES, TEAR_BYTES};
use crate::volume::{create_with_geometry, Limits, Volume};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Bytes of the store: the catalog, and more segments than any workload fills.
const STORE_BYTES: usize = 2560 << 10;
/// The device is larger by a few segments, for the store to grow.
const STORE_GROWTH_BYTES: usize = 256 << 10;
/// One lane for requests, one for background work.
const LANES: u16 = 2;

fn limits() -> Limits {
    Limits {
        spill_entries: 4,
        entries_max: 64,
        cache_pages: 16,
        reserve_segments: 1,
        restore_step_blocks: 1,
        ..Limits::default()
    }
}

/// The disks, and the contents they have met.
pub(super) struct Machine {
    pub(super) tape: Rc<RefCell<Tape>>,
    pub(super) disks: Rc<Disks<TapeDisk>>,
    state: StateDirectory,
}

/// An attached volume.
pub(super) struct Attached {
    pub(super) volume: Arc<Volume>,
    pub(super) lane: Lane<TapeDisk>,
    pub(super) control: Lane<TapeDisk>,
}

impl Machine {
    pub(super) fn new(lie: Option<Lie>) -> Machine {
        let origin_pages = (VOLUME_BLOCKS + GROWTH_BLOCKS) as usize;
        let store_pages = (STORE_BYTES + STORE_GROWTH_BYTES) / BLOCK_BYTES;
        let tape = Rc::new(RefCell::new(Tape::new(Shape { origin_pages, store_pages, lie })));
        let (origin, store) = (TapeDisk::new(&tape, Device::Origin), TapeDisk::new(&tape, Device::Store));
        // Nothing is ever recorded in the state directory where no device fails; a failing one would show it.
        Machine { tape, disks: Rc::new(Disks { origin, store }), state: StateDirectory::failing() }
    }

    /// What the origin holds at first.
    pub(super) fn initial_content() -> Vec<u8> {
        let mut content = vec![0; VOLUME_BLOCKS as usize * BLOCK_BYTES];
        stamp(0, 0, &mut content);
        content
    }

    /// The image of a new store beside an origin that is in use.
    pub(super) fn create(&self) -> Image {
        let mut content = aligned_buffer(VOLUME_BLOCKS as usize * BLOCK_BYTES);
        content.copy_from_slice(&Machine::initial_content());
        let geometry = Geometry::plan_with_area(STORE_BYTES as u64, SEGMENT_BYTES_MIN, AREA_BYTES_MIN);
        let geometry = geometry.expect("the store is large enough");
        // What is kept must not lie on the scratch.
        self.tape.borrow_mut().events = Some(Vec::new());
        self.tape.borrow_mut().origin_size_pages = VOLUME_BLOCKS as usize;
        block_on(async {
            self.disks.origin.write(0, &content).await.expect("the tape takes everything");
            let options = create_options(SEGMENT_BYTES_MIN);
            create_with_geometry(&self.disks, &options, geometry).await.expect("the store is large enough");
        });
        self.tape.borrow().image.clone()
    }

    /// Attaches what the disks hold.
    pub(super) fn attach(&self) -> Result<Arc<Volume>, String> {
        let opened = block_on(Volume::open(&self.disks, open_options(LANES, limits(), &self.state)));
        opened.map_err(|error| format!("the attach failed: {error:?}"))
    }

    /// The volume with its lanes.
    pub(super) fn with_lanes(&self, volume: Arc<Volume>) -> Attached {
        let lane = |index| Lane::new(Arc::clone(&volume), index, Rc::clone(&self.disks));
        Attached { lane: lane(0), control: lane(1), volume: Arc::clone(&volume) }
    }

    /// Reads everything that an attached volume shows.
    pub(super) fn look(&self, volume: &Volume) -> Result<Found, String> {
        block_on(async {
            let mut content = aligned_buffer(volume.size_bytes() as usize);
            let read = volume.read_current(&self.disks, 0, &mut content).await;
            read.map_err(|error| format!("the volume cannot be read: {error:?}"))?;
            let mut found = Found { volume: numbers(&content), snapshots: Vec::new() };
            let mut points = [volume.snapshots().await, volume.bookmarks().await].concat();
            points.sort_by_key(|point| point.epoch);
            for snapshot in points {
                let name = snapshot.name.as_str().to_owned();
                if let Some(reason) = &snapshot.broken {
                    return Err(format!("snapshot {name} is broken without a fault: {reason:?}"));
                }
                let content = match snapshot.bookmark {
                    true => vec![TOLD; snapshot.size_bytes as usize / TEAR_BYTES],
                    false => {
                        let picture = self.snapshot_picture(volume, &snapshot.name).await;
                        let picture = picture.map_err(|error| format!("snapshot {name} cannot be read: {error:?}"))?;
                        numbers(&picture.content)
                    }
                };
                found.snapshots.push(FoundSnapshot { name, is_bookmark: snapshot.bookmark, content });
            }
            self.compare_deltas(volume, &mut found).await?;
            Ok(found)
        })
    }

    pub(super) async fn snapshot_picture(&self, volume: &Volume, name: &SnapshotName) -> Result<Picture, Error> {
        let handle = volume.snapshot_handle(&self.disks, name).await?;
        let mut content = aligned_buffer(handle.size_bytes() as usize);
        volume.read_snapshot(&self.disks, &handle, 0, &mut content).await?;
        Ok(Picture { content: content.to_vec(), holes: Holes::clone(handle.holes()) })
    }

    /// Attaches an image and looks at it. With `record`, the tape then holds the requests of the attach.
    pub(super) fn recover(&self, image: &Image, record: bool) -> Result<(Found, Arc<Volume>), String> {
        {
            let mut tape = self.tape.borrow_mut();
            tape.load(image);
            tape.events = record.then(Vec::new);
        }
        let volume = self.attach()?;
        let found = self.look(&volume)?;
        Ok((found, volume))
    }
}
