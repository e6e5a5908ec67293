//! The fingerprint follows every change, in any order, and sees any difference.

mod common;

use cairn_delta::{is_zero, runs, Fingerprint, FINGERPRINT_BLOCK_BYTES};
use common::{random_image, random_successor, BLOCK_BYTES};

#[test]
fn the_order_of_blocks_is_of_no_importance() {
    let mut random = fastrand::Rng::with_seed(1);
    let image = random_image(&mut random, 50 * BLOCK_BYTES - 700);
    let whole = Fingerprint::of_content(0, &image);
    let mut blocks: Vec<_> = image.chunks(BLOCK_BYTES).enumerate().collect();
    random.shuffle(&mut blocks);
    let shuffled: Fingerprint = blocks.iter().map(|(index, block)| Fingerprint::of_block(*index as u64, block)).sum();
    assert_eq!(shuffled, whole);
    let (front, back) = image.split_at(20 * BLOCK_BYTES);
    let parts = Fingerprint::of_content(20 * BLOCK_BYTES as u64, back) + Fingerprint::of_content(0, front);
    assert_eq!(parts, whole);
}

#[test]
fn it_follows_a_delta_without_the_rest() {
    for seed in 0..50 {
        let mut random = fastrand::Rng::with_seed(seed);
        let sizes = [0, 1].map(|_| random.usize(1..40) * BLOCK_BYTES);
        let before = random_image(&mut random, sizes[0]);
        let after = random_successor(&mut random, &before, sizes[1]);
        let mut result = Fingerprint::of_content(0, &before);
        for index in 0..sizes[0].max(sizes[1]) / BLOCK_BYTES {
            let range = index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES;
            let (old, new) = (before.get(range.clone()).unwrap_or(&[]), after.get(range).unwrap_or(&[]));
            if old != new {
                result -= Fingerprint::of_block(index as u64, old);
                result += Fingerprint::of_block(index as u64, new);
            }
        }
        assert_eq!(result, Fingerprint::of_content(0, &after), "seed {seed}");
    }
}

#[test]
fn zeroes_add_nothing_so_growing_changes_nothing() {
    assert_eq!(Fingerprint::of_content(0, &[0; 10 * BLOCK_BYTES]), Fingerprint::EMPTY);
    assert_eq!(Fingerprint::of_block(5, &[]), Fingerprint::EMPTY);
    let mut image = random_image(&mut fastrand::Rng::with_seed(2), 7 * BLOCK_BYTES - 100);
    image.push(1);
    let before = Fingerprint::of_content(0, &image);
    image.resize(9 * BLOCK_BYTES, 0);
    assert_eq!(Fingerprint::of_content(0, &image), before);
}

#[test]
fn a_difference_anywhere_changes_it() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut image = random_image(&mut random, 8 * BLOCK_BYTES);
    let before = Fingerprint::of_content(0, &image);
    for _ in 0..2000 {
        let (at, flip) = (random.usize(..image.len()), 1 << random.u8(0..8));
        image[at] ^= flip;
        assert_ne!(Fingerprint::of_content(0, &image), before, "byte {at}");
        image[at] ^= flip;
    }
    assert_eq!(Fingerprint::of_content(0, &image), before);
    let (a, b) = ([1; BLOCK_BYTES], [2; BLOCK_BYTES]);
    let there = Fingerprint::of_block(0, &a) + Fingerprint::of_block(1, &b);
    let exchanged = Fingerprint::of_block(0, &b) + Fingerprint::of_block(1, &a);
    assert_ne!(there, exchanged, "two blocks that changed places");
}

/// The sum in decimal long-hand, so that carries are seen by something else than themselves.
#[test]
fn sums_carry_through_all_their_bytes() {
    let number = |bytes: [u8; 16]| Fingerprint::from_bytes(bytes);
    let one = number(std::array::from_fn(|place| u8::from(place == 0)));
    let most = number([0xff; 16]);
    assert_eq!(most + one, Fingerprint::EMPTY);
    assert_eq!(Fingerprint::EMPTY - one, most);
    let mut random = fastrand::Rng::with_seed(4);
    for _ in 0..1000 {
        let mut halves = [[0; 16]; 2];
        for bytes in &mut halves {
            bytes.iter_mut().for_each(|byte| *byte = *random.choice(&[0, 1, 0x7f, 0x80, 0xfe, 0xff]).expect("some"));
        }
        let mut carry = 0;
        let sum = std::array::from_fn(|place| {
            let byte = u16::from(halves[0][place]) + u16::from(halves[1][place]) + carry;
            carry = byte >> 8;
            byte as u8
        });
        assert_eq!(number(halves[0]) + number(halves[1]), number(sum));
        assert_eq!(number(sum) - number(halves[1]), number(halves[0]));
    }
}

#[test]
fn it_is_what_its_definition_says() {
    let block = [7; FINGERPRINT_BLOCK_BYTES];
    let defined = xxhash_rust::xxh3::xxh3_128_with_seed(&block, 3);
    assert_eq!(Fingerprint::of_block(3, &block).to_bytes(), defined.to_le_bytes());
    let short = xxhash_rust::xxh3::xxh3_128_with_seed(&[&b"end"[..], &[0; 4093]].concat(), 3);
    assert_eq!(Fingerprint::of_block(3, b"end").to_bytes(), short.to_le_bytes());
    let fingerprint = Fingerprint::of_block(3, &block);
    assert_eq!(fingerprint.to_string(), format!("{:032x}", defined.swap_bytes()));
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    for wrong in ["", "00", &"g".repeat(32), &"\u{e9}".repeat(16), &"0".repeat(33)] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[test]
fn content_is_taken_apart_into_zeroes_and_the_rest() {
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        let content = {
            let blocks = random.usize(0..20);
            let length = blocks * 512 + if random.bool() { random.usize(0..512) } else { 0 };
            let mut content = vec![0; length];
            for block in content.chunks_mut(512) {
                if random.bool() {
                    let at = random.usize(..block.len());
                    block[at] = 1;
                }
            }
            content
        };
        let found: Vec<_> = runs(&content, 512).collect();
        let covered: Vec<usize> = found.iter().flat_map(|run| run.range.clone()).collect();
        assert!(covered.iter().copied().eq(0..content.len()));
        assert!(found.windows(2).all(|pair| pair[0].zero != pair[1].zero), "runs are as long as they can be");
        for run in &found {
            let blocks = content[run.range.clone()].chunks(512);
            assert!(run.range.start % 512 == 0 && blocks.into_iter().all(|block| is_zero(block) == run.zero));
        }
    }
    for length in 0..200 {
        let mut content = vec![0; length];
        assert!(is_zero(&content));
        for at in 0..length {
            content[at] = 0x80;
            assert!(!is_zero(&content), "{length} bytes, byte {at}");
            content[at] = 0;
        }
    }
}
