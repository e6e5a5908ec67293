//! A picture of where a disk changed: one square for each stretch of it, from the left top to the right bottom.
//!
//! Invariants:
//! - Squares have the same share of the disk each; the more of it changed, the darker it is.
//! - The picture appears under its name whole or not at all.

use crate::exit::{ExitCode, Failure, Outcome};
use crate::new_file::NewFile;
use cairn_target::control::api::{ChangeKind, ExtentReport};
use std::io::Write;
use std::path::Path;

/// Squares in a row, and rows.
const SIDE: usize = 128;
/// Pixels of a square's side.
const SQUARE_PIXELS: usize = 6;
/// Shades between "a little" and "all".
const SHADES: u64 = 8;

/// Red, green, blue.
type Color = [u8; 3];
const UNCHANGED: Color = [0xee, 0xee, 0xe8];
const CHANGED_LITTLE: Color = [0xf3, 0xb0, 0x90];
const CHANGED_ALL: Color = [0x9c, 0x1c, 0x10];
const NOT_IN_USE: Color = [0x7a, 0xa6, 0xd8];
const BEYOND: Color = [0xff, 0xff, 0xff];

/// What changed in each square.
pub struct ChangeMap {
    size_bytes: u64,
    square_bytes: u64,
    changed_bytes: Vec<u64>,
    not_in_use_bytes: Vec<u64>,
}

impl ChangeMap {
    /// Of a disk on which nothing changed yet.
    pub fn new(size_bytes: u64) -> ChangeMap {
        let squares = SIDE * SIDE;
        let square_bytes = size_bytes.div_ceil(squares as u64).max(1).next_multiple_of(4096);
        ChangeMap { size_bytes, square_bytes, changed_bytes: vec![0; squares], not_in_use_bytes: vec![0; squares] }
    }

    /// Counts an extent.
    pub fn add(&mut self, extent: &ExtentReport) {
        let counts = match extent.kind {
            ChangeKind::Data => &mut self.changed_bytes,
            ChangeKind::NotInUse => &mut self.not_in_use_bytes,
        };
        let end = (extent.offset_bytes + extent.length_bytes).min(self.size_bytes);
        let mut at = extent.offset_bytes;
        while at < end {
            let square = at / self.square_bytes;
            let square_end = ((square + 1) * self.square_bytes).min(end);
            counts[square as usize] += square_end - at;
            at = square_end;
        }
    }

    fn color(&self, square: usize) -> Color {
        if square as u64 * self.square_bytes >= self.size_bytes {
            return BEYOND;
        }
        let changed = self.changed_bytes[square];
        match (changed, self.not_in_use_bytes[square]) {
            (0, 0) => UNCHANGED,
            (0, _) => NOT_IN_USE,
            _ => {
                let shade = (changed * SHADES).div_ceil(self.square_bytes).min(SHADES) - 1;
                let mix = |little: u8, all: u8| {
                    let (little, all) = (u64::from(little), u64::from(all));
                    ((little * (SHADES - 1 - shade) + all * shade) / (SHADES - 1)) as u8
                };
                std::array::from_fn(|part| mix(CHANGED_LITTLE[part], CHANGED_ALL[part]))
            }
        }
    }

    /// Writes the picture; the name's end says which form: `.svg` or `.png`.
    pub fn save(&self, path: &Path, title: &str) -> Outcome {
        let picture = match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => self.svg(title).into_bytes(),
            Some("png") => self.png(),
            _ => {
                let message = format!("{}: a map is a .svg or a .png; name it so", path.display());
                return Err(Failure::new(ExitCode::Usage, message));
            }
        };
        let mut file = NewFile::create(path)?;
        file.write_all(&picture).map_err(|error| Failure::io("write the map", path, error))?;
        file.appear()
    }

    fn svg(&self, title: &str) -> String {
        let side = SIDE * SQUARE_PIXELS;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{side}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"14\">\n<title>{title}</title>\n",
            height = side + 30,
        );
        for row in 0..SIDE {
            let mut column = 0;
            while column < SIDE {
                let color = self.color(row * SIDE + column);
                let same = (column..SIDE).take_while(|&next| self.color(row * SIDE + next) == color).count();
                text.push_str(&format!(
                    "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{SQUARE_PIXELS}\" fill=\"{}\"/>\n",
                    column * SQUARE_PIXELS,
                    row * SQUARE_PIXELS,
                    same * SQUARE_PIXELS,
                    hex(color),
                ));
                column += same;
            }
        }
        let legend =
            [(CHANGED_LITTLE, "changed a little"), (CHANGED_ALL, "changed all"), (NOT_IN_USE, "not in use any more")];
        for (number, (color, words)) in legend.into_iter().enumerate() {
            let (x, y) = (number * 160, side + 8);
            text.push_str(&format!("<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"{}\"/>\n", hex(color)));
            text.push_str(&format!("<text x=\"{}\" y=\"{}\">{words}</text>\n", x + 20, y + 12));
        }
        let note = format!("{title}; a square is {} bytes", self.square_bytes);
        text.push_str(&format!("<text x=\"{side}\" y=\"{}\" text-anchor=\"end\">{note}</text>\n</svg>\n", side + 20));
        text
    }

    fn png(&self) -> Vec<u8> {
        let side = SIDE * SQUARE_PIXELS;
        let mut pixels = Vec::with_capacity(side * side * 3);
        for y in 0..side {
            for x in 0..side {
                pixels.extend(self.color(y / SQUARE_PIXELS * SIDE + x / SQUARE_PIXELS));
            }
        }
        let mut picture = Vec::new();
        let mut encoder = png::Encoder::new(&mut picture, side as u32, side as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().expect("a vector takes everything");
        writer.write_image_data(&pixels).expect("the picture has as many pixels as its header says");
        writer.finish().expect("a vector takes everything");
        picture
    }
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset_bytes: u64, length_bytes: u64, kind: ChangeKind) -> ExtentReport {
        ExtentReport { offset_bytes, length_bytes, kind }
    }

    #[test]
    fn the_colors_follow_what_changed() {
        let square_bytes = 1 << 20;
        let mut map = ChangeMap::new(square_bytes * (SIDE * SIDE) as u64);
        map.add(&extent(0, 4096, ChangeKind::Data));
        map.add(&extent(square_bytes, 2 * square_bytes, ChangeKind::Data));
        map.add(&extent(3 * square_bytes, 4096, ChangeKind::NotInUse));
        let colors: Vec<Color> = (0..5).map(|square| map.color(square)).collect();
        assert_eq!(colors, [CHANGED_LITTLE, CHANGED_ALL, CHANGED_ALL, NOT_IN_USE, UNCHANGED]);
        assert!(map.png().starts_with(b"\x89PNG"));
        assert_eq!(map.svg("x").matches("#9c1c10").count(), 2, "one run of squares, and the legend");
    }

    #[test]
    fn a_small_disk_does_not_fill_the_picture_and_its_last_byte_is_in_it() {
        let mut map = ChangeMap::new(10 * 4096 + 512);
        map.add(&extent(10 * 4096, 512, ChangeKind::Data));
        assert_eq!((map.color(9), map.color(11)), (UNCHANGED, BEYOND));
        assert_ne!(map.color(10), UNCHANGED);
    }
}
