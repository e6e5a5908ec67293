//! What the kernel is told about a device: size, sectors, hints, limits, honestly taken from the origin.
//!
//! Invariants:
//! - No request is larger than a tag's buffer, which is the engine's piece.
//! - A read-only device offers neither discard nor zeroes.

use crate::device::Limits;
use cairn_engine::units::{BLOCK_BYTES, PIECE_BLOCKS_MAX};
use libublk::sys;

/// Bytes of a tag's buffer, and so of the largest read or write.
pub const TAG_BUFFER_BYTES: u32 = (PIECE_BLOCKS_MAX as usize * BLOCK_BYTES) as u32;

/// Largest write-zeroes taken at once; each may have to save as much.
const WRITE_ZEROES_BYTES_MAX: u64 = 64 << 20;
const SECTOR_SHIFT: u32 = 9;

/// What a device shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its size in bytes, a multiple of the logical sector.
    pub size_bytes: u64,
    /// The limits and hints of the disk below.
    pub limits: Limits,
    /// Refuses writes.
    pub read_only: bool,
}

/// The driver's parameters for a device of this shape.
pub fn parameters(shape: &Shape) -> sys::ublk_params {
    let limits = &shape.limits;
    assert!(shape.size_bytes.is_multiple_of(u64::from(limits.sector_bytes)), "the size is whole sectors");
    let physical_bytes = limits.physical_bytes.max(limits.sector_bytes);
    // FUA is honoured by the driver only together with a volatile cache, and the cache brings the flushes.
    let mut attributes = sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA;
    if shape.read_only {
        attributes |= sys::UBLK_ATTR_READ_ONLY;
    }
    if limits.rotational {
        attributes |= sys::UBLK_ATTR_ROTATIONAL;
    }
    let (discard_bytes_max, write_zeroes_bytes_max) = if shape.read_only {
        (0, 0)
    } else {
        (limits.discard_bytes_max, limits.write_zeroes_bytes_max.min(WRITE_ZEROES_BYTES_MAX))
    };
    sys::ublk_params {
        types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_DISCARD,
        basic: sys::ublk_param_basic {
            attrs: attributes,
            logical_bs_shift: shift_of(limits.sector_bytes),
            physical_bs_shift: shift_of(physical_bytes),
            io_min_shift: shift_of(limits.io_min_bytes.max(physical_bytes)),
            io_opt_shift: shift_of(limits.io_opt_bytes.max(physical_bytes)),
            max_sectors: TAG_BUFFER_BYTES >> SECTOR_SHIFT,
            dev_sectors: shape.size_bytes >> SECTOR_SHIFT,
            ..Default::default()
        },
        discard: sys::ublk_param_discard {
            discard_granularity: limits.discard_granularity_bytes.max(limits.sector_bytes),
            max_discard_sectors: (discard_bytes_max >> SECTOR_SHIFT) as u32,
            max_write_zeroes_sectors: (write_zeroes_bytes_max >> SECTOR_SHIFT) as u32,
            max_discard_segments: 1,
            ..Default::default()
        },
        ..Default::default()
    }
}

/// The driver takes powers of two; of another size its largest power-of-two divisor keeps the alignment it asks for.
fn shift_of(bytes: u32) -> u8 {
    assert!(bytes > 0, "a hint of zero bytes is no hint");
    bytes.trailing_zeros() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        let limits = Limits {
            sector_bytes: 512,
            physical_bytes: 4096,
            io_min_bytes: 4096,
            io_opt_bytes: 1280 << 10,
            discard_bytes_max: 1 << 30,
            discard_granularity_bytes: 4096,
            write_zeroes_bytes_max: 1 << 30,
            fua: false,
            volatile_cache: true,
            rotational: true,
            serial: None,
        };
        Shape { size_bytes: 10 << 20, limits, read_only: false }
    }

    #[test]
    fn the_origins_limits_and_hints_are_passed_through() {
        let given = parameters(&shape());
        assert_eq!((given.basic.logical_bs_shift, given.basic.physical_bs_shift), (9, 12));
        assert_eq!(given.basic.io_opt_shift, 18, "1280 KiB is aligned to 256 KiB");
        assert_eq!(given.basic.max_sectors, 1024);
        assert_eq!(given.basic.dev_sectors, 20480);
        assert_eq!(given.discard.max_discard_segments, 1);
        assert_ne!(given.basic.attrs & sys::UBLK_ATTR_ROTATIONAL, 0);
    }

    #[test]
    fn a_read_only_device_offers_no_discard_and_a_volume_does_without_the_origin_having_it() {
        let given = parameters(&Shape { read_only: true, ..shape() });
        assert_ne!(given.basic.attrs & sys::UBLK_ATTR_READ_ONLY, 0);
        assert_eq!((given.discard.max_discard_sectors, given.discard.max_write_zeroes_sectors), (0, 0));
        let mut without = shape();
        without.limits.discard_bytes_max = 0;
        without.limits.discard_granularity_bytes = 0;
        assert_eq!(parameters(&without).discard.max_discard_sectors, 0);
        assert_ne!(parameters(&without).discard.discard_granularity, 0, "the driver refuses zero");
        without.limits = without.limits.of_volume();
        assert_ne!(parameters(&without).discard.max_discard_sectors, 0);
        assert_eq!(parameters(&without).discard.discard_granularity, 4096);
    }
}
