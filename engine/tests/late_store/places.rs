//! Where a write can come to wait for the store.

use super::stage::{Scene, Stage, BLOCK, HOLE, UNKNOWN};
use cairn_engine::disk::aligned_buffer;
use cairn_engine::error::Result;
use cairn_engine::lateness::OnLate;
use cairn_engine::sim::rig::snapshot_name;
use cairn_engine::sim::{Fault, FaultTarget, Handle};
use cairn_engine::volume::Limits;
use std::rc::Rc;

type Requests = Vec<Handle<Result<()>>>;

/// One place.
pub struct Place {
    pub name: &'static str,
    scene: fn(Scene) -> Scene,
    /// Makes the store stall, and begins what then waits for it.
    begin: fn(&mut Stage) -> Requests,
    /// The store or the disk fails as well: without a deadline snapshots may break, too.
    pub fails: bool,
}

impl Place {
    /// The stage with requests that wait.
    pub fn set(&self, seed: u64, scene: Scene) -> (Stage, Requests) {
        let mut stage = Stage::new(seed, (self.scene)(scene));
        stage.begin();
        let requests = (self.begin)(&mut stage);
        stage.go();
        assert!(requests.iter().any(|request| !request.is_finished()), "{}: nothing waits", self.name);
        (stage, requests)
    }
}

const fn place(name: &'static str, begin: fn(&mut Stage) -> Requests) -> Place {
    Place { name, scene: |scene| scene, begin, fails: false }
}

pub const PLACES: &[Place] = &[
    place("the record", |stage| {
        stage.stall_segments();
        vec![stage.write(40..41, 2)]
    }),
    place("the record of several, and claims of others on another lane", |stage| {
        stage.stall_segments();
        let own = [stage.write(40..41, 2), stage.write(41..42, 2), stage.write(42..43, 2)];
        let others = [stage.write_by(true, 40..41, 2), stage.write_by(true, 43..44, 2)];
        own.into_iter().chain(others).collect()
    }),
    Place {
        scene: |scene| Scene { has_fua: false, ..scene },
        ..place("the flush of the record", |stage| {
            stage.rig.disks.store.inject(Fault::stall(FaultTarget::Flush, 0));
            vec![stage.write(40..43, 2)]
        })
    },
    place("the hand-out of segments", |stage| {
        stage.stall_catalog(0);
        vec![stage.write(30..100, 2), stage.write_by(true, 100..150, 2)]
    }),
    place("the ledger, which somebody else has", |stage| {
        stage.stall_catalog(0);
        let rig = Rc::clone(&stage.rig);
        stage.scheduler.spawn("delete", async move { rig.volume.delete(&rig.disks, &snapshot_name("a")).await });
        stage.go();
        vec![stage.write(30..100, 2), stage.write(HOLE.start + 1..HOLE.start + 2, 2)]
    }),
    Place {
        scene: |scene| Scene { limits: Limits { spill_entries: 4, entries_max: 8, ..scene.limits }, ..scene },
        ..place("memory that only the store makes free", |stage| {
            stage.stall_catalog(0);
            stage.work();
            vec![stage.write(30..60, 2)]
        })
    },
    Place {
        fails: true,
        ..place("the broken mark of a store that fails", |stage| {
            stage.fail_segments();
            stage.stall_catalog(0);
            vec![stage.write(40..42, 2), stage.write(50..51, 2)]
        })
    },
    place("the record that a region is out of date", |stage| {
        stage.stall_catalog(0);
        vec![stage.write(HOLE.start + 5..HOLE.start + 6, 2), stage.write_by(true, HOLE.start + 6..HOLE.start + 7, 2)]
    }),
    place("the log of the watch", |stage| {
        stage.stall_catalog(0);
        vec![stage.write(0..1, 2), stage.write(1..2, 2)]
    }),
    place("the watch that follows the partition table", |stage| {
        // The hashes are logged; where the partitions are now is not.
        stage.stall_catalog(1);
        vec![write_table(stage), stage.write(1..2, 2)]
    }),
    place("the gate, closed by a cut", |stage| {
        stage.stall_catalog(0);
        stage.snapshot("cut");
        stage.go();
        vec![stage.write(40..41, 2), stage.write_by(true, 0..1, 2)]
    }),
    Place {
        fails: true,
        ..place("the latch of a failed flush", |stage| {
            stage.stall_catalog(0);
            stage.rig.disks.origin.inject(Fault::once(FaultTarget::Flush, 0));
            let rig = Rc::clone(&stage.rig);
            let flush = stage.scheduler.spawn("flush", async move {
                rig.lane.flush().await.expect_err("the disk failed");
                Ok(())
            });
            vec![flush]
        })
    },
    place("the confirmation of an idle lane", |stage| {
        let first = stage.write(40..41, 2);
        stage.scheduler.run_until(&first).expect("nothing stalls yet");
        stage.stall_segments();
        let rig = Rc::clone(&stage.rig);
        stage.scheduler.spawn("tick", async move { rig.lane.tick().await });
        stage.go();
        vec![stage.write(41..42, 2)]
    }),
];

/// Writes a partition table with one partition.
pub fn write_table(stage: &mut Stage) -> Handle<Result<()>> {
    stage.content[0] = UNKNOWN;
    let rig = Rc::clone(&stage.rig);
    stage.scheduler.spawn("partition table", async move {
        let mut table = aligned_buffer(BLOCK as usize);
        table[446 + 4] = 0x83;
        table[446 + 8..446 + 12].copy_from_slice(&320u32.to_le_bytes());
        table[446 + 12..446 + 16].copy_from_slice(&640u32.to_le_bytes());
        table[510..512].copy_from_slice(&[0x55, 0xaa]);
        rig.lane.write(0, &table, false).await
    })
}

/// A scene in which snapshots break.
pub fn breaking() -> Scene {
    Scene::new(OnLate::Break)
}
