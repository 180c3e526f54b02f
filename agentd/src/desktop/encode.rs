//! Pixels into a picture file. Blocking: callers are on a thread for that.

use helix_protocol::desktop::{ImageFormat, Region};

use super::capture::PIXEL_BYTES;
use super::{DesktopError, Result};

/// Pixels as the display gives them: blue, green, red, and a byte that means nothing.
pub(super) struct Pixels {
    pub bytes: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

/// A pointer as the display draws it.
pub(super) struct Pointer {
    /// Its left upper corner on the screen.
    pub x: i32,
    pub y: i32,
    pub width: u16,
    /// Alpha, red, green, blue of each pixel, multiplied by alpha.
    pub image: Vec<u32>,
}

impl Pixels {
    /// What a display gave for that part of it.
    pub fn of(region: Region, bytes: Vec<u8>) -> Self {
        Self { bytes, width: u32::from(region.width), height: u32::from(region.height) }
    }

    /// Draws the pointer over a picture that begins at this point of the screen.
    pub fn draw(&mut self, pointer: &Pointer, left: i32, top: i32) {
        let columns = usize::from(pointer.width).max(1);
        for (row, line) in (0..).zip(pointer.image.chunks(columns)) {
            let y = pointer.y + row - top;
            for (column, colour) in (0..).zip(line) {
                let x = pointer.x + column - left;
                let inside = (0..self.width.cast_signed()).contains(&x) && (0..self.height.cast_signed()).contains(&y);
                if !inside {
                    continue;
                }
                let at = (y as usize * self.width as usize + x as usize) * PIXEL_BYTES;
                let [blue, green, red, alpha] = colour.to_le_bytes();
                for (below, above) in self.bytes[at..].iter_mut().zip([blue, green, red]) {
                    let seen_through = u16::from(*below) * (255 - u16::from(alpha)) / 255;
                    *below = (seen_through + u16::from(above)).min(255) as u8;
                }
            }
        }
    }

    /// Smaller by `scale`, each pixel the mean of those that it stands for.
    pub fn scaled(self, scale: f64) -> Self {
        let side = |pixels: u32| ((f64::from(pixels) * scale).round() as u32).clamp(1, pixels);
        let (width, height) = (side(self.width), side(self.height));
        if (width, height) == (self.width, self.height) {
            return self;
        }
        // Which columns, and which rows, become one.
        let spans = |from: u32, to: u32| -> Vec<std::ops::Range<usize>> {
            let edge = |at: u32| (u64::from(at) * u64::from(from) / u64::from(to)) as usize;
            (0..to).map(|at| edge(at)..edge(at + 1).max(edge(at) + 1)).collect()
        };
        let (columns, rows) = (spans(self.width, width), spans(self.height, height));
        let stride = self.width as usize * PIXEL_BYTES;
        let mut bytes = Vec::with_capacity(width as usize * height as usize * PIXEL_BYTES);
        for rows in rows {
            for columns in &columns {
                let mut sums = [0_u32; PIXEL_BYTES];
                for row in rows.clone() {
                    let line = &self.bytes[row * stride..][columns.start * PIXEL_BYTES..columns.end * PIXEL_BYTES];
                    for pixel in line.chunks_exact(PIXEL_BYTES) {
                        for (sum, byte) in sums.iter_mut().zip(pixel) {
                            *sum += u32::from(*byte);
                        }
                    }
                }
                let count = (rows.len() * columns.len()) as u32;
                bytes.extend(sums.map(|sum| (sum / count) as u8));
            }
        }
        Self { bytes, width, height }
    }

    /// The file.
    pub fn encoded(self, format: ImageFormat, quality: u8) -> Result<Vec<u8>> {
        let failed =
            |error: &dyn std::fmt::Display| DesktopError::Fault(format!("the picture cannot be made: {error}"));
        match format {
            ImageFormat::Raw => Ok(self.into_rgba()),
            ImageFormat::Png => self.png().map_err(|error| failed(&error)),
            ImageFormat::Jpeg => {
                let mut file = Vec::new();
                let (width, height) = (self.width as u16, self.height as u16);
                jpeg_encoder::Encoder::new(&mut file, quality)
                    .encode(&self.bytes, width, height, jpeg_encoder::ColorType::Bgra)
                    .map_err(|error| failed(&error))?;
                Ok(file)
            }
            ImageFormat::Webp => {
                let mut file = Vec::new();
                image_webp::WebPEncoder::new(&mut file)
                    .encode(&self.rgb(), self.width, self.height, image_webp::ColorType::Rgb8)
                    .map_err(|error| failed(&error))?;
                Ok(file)
            }
        }
    }

    fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb())?;
        writer.finish()?;
        Ok(file)
    }

    fn rgb(&self) -> Vec<u8> {
        let mut rgb = vec![0; self.bytes.len() / PIXEL_BYTES * 3];
        for (to, from) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(self.bytes.as_chunks::<PIXEL_BYTES>().0) {
            *to = [from[2], from[1], from[0]];
        }
        rgb
    }

    fn into_rgba(mut self) -> Vec<u8> {
        for pixel in self.bytes.as_chunks_mut::<PIXEL_BYTES>().0 {
            *pixel = [pixel[2], pixel[1], pixel[0], 255];
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blue, green, red of each pixel.
    fn pixels(width: u32, colours: &[[u8; 3]]) -> Pixels {
        let bytes = colours.iter().flat_map(|[b, g, r]| [*b, *g, *r, 0x5a]).collect();
        Pixels { bytes, width, height: colours.len() as u32 / width }
    }

    #[test]
    fn raw_is_red_green_blue_and_opaque() {
        let raw = pixels(2, &[[1, 2, 3], [4, 5, 6]]).encoded(ImageFormat::Raw, 80).expect("a picture");
        assert_eq!(raw, [3, 2, 1, 255, 6, 5, 4, 255]);
    }

    #[test]
    fn a_smaller_picture_is_the_mean() {
        let half = pixels(2, &[[0, 0, 0], [100, 0, 0], [0, 60, 0], [0, 0, 200]]).scaled(0.5);
        assert_eq!((half.width, half.height, &half.bytes[..3]), (1, 1, &[25, 15, 50][..]));
        let same = pixels(2, &[[1, 2, 3], [4, 5, 6]]).scaled(1.0);
        assert_eq!((same.width, same.height), (2, 1));
        let uneven = pixels(3, &[[9; 3]; 9]).scaled(0.5);
        assert_eq!((uneven.width, uneven.height, &uneven.bytes[..3]), (2, 2, &[9; 3][..]));
    }

    #[test]
    fn a_pointer_is_drawn_where_it_is_and_cut_at_the_edge() {
        let mut picture = pixels(2, &[[10, 10, 10]; 4]);
        // Opaque red at the corner, half transparent white beside it, the rest outside.
        let image = vec![0xffff_0000, 0x8080_8080, 0xffff_ffff, 0, 0, 0];
        picture.draw(&Pointer { x: 100, y: 51, width: 3, image }, 100, 50);
        assert_eq!(&picture.bytes[..3], [10, 10, 10], "the row above is untouched");
        assert_eq!(&picture.bytes[8..11], [0, 0, 255]);
        assert_eq!(&picture.bytes[12..15], [132, 132, 132]);
    }

    #[test]
    fn a_png_has_the_pixels() {
        let file = pixels(2, &[[1, 2, 3], [4, 5, 6]]).encoded(ImageFormat::Png, 80).expect("a picture");
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().expect("a PNG");
        let mut back = vec![0; 6];
        reader.next_frame(&mut back).expect("a frame");
        assert_eq!(back, [3, 2, 1, 6, 5, 4]);
    }
}
