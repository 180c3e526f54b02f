//! A picture: rows of red, green, blue.

/// Pixels of a desktop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// In pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// In pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Red, green and blue of each pixel, row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Red, green and blue of one pixel; None outside.
    pub fn at(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        let from = (x < self.width && y < self.height).then_some(3 * (y * self.width + x))?;
        self.pixels.get(from..from + 3)?.try_into().ok()
    }

    /// Another size; what was there stays where it was.
    pub(super) fn resize(&mut self, width: usize, height: usize) {
        if (width, height) == (self.width, self.height) {
            return;
        }
        let mut new = Self { width, height, pixels: vec![0; 3 * width * height] };
        let (common, rows) = (3 * width.min(self.width), height.min(self.height));
        for y in 0..rows {
            let (to, from) = (3 * y * width, 3 * y * self.width);
            new.pixels[to..to + common].copy_from_slice(&self.pixels[from..from + common]);
        }
        *self = new;
    }

    /// Puts rows of pixels there; what is outside is left out.
    pub(super) fn put(&mut self, (x, y, width, height): (usize, usize, usize, usize), pixels: &[u8]) {
        let seen = width.min(self.width.saturating_sub(x));
        if seen == 0 || width == 0 {
            return;
        }
        for (row, line) in pixels.chunks_exact(3 * width).take(height.min(self.height.saturating_sub(y))).enumerate() {
            let to = 3 * ((y + row) * self.width + x);
            self.pixels[to..to + 3 * seen].copy_from_slice(&line[..3 * seen]);
        }
    }

    /// Fills a rectangle.
    pub(super) fn fill(&mut self, (x, y, width, height): (usize, usize, usize, usize), colour: [u8; 3]) {
        let line = colour.repeat(width.min(self.width.saturating_sub(x)));
        for row in y..(y + height).min(self.height) {
            let to = 3 * (row * self.width + x);
            if let Some(to) = self.pixels.get_mut(to..to + line.len()) {
                to.copy_from_slice(&line);
            }
        }
    }

    /// Copies a rectangle of itself, which may overlap.
    pub(super) fn copy(&mut self, (x, y, width, height): (usize, usize, usize, usize), from: (usize, usize)) {
        if x + width > self.width || y + height > self.height {
            return;
        }
        let mut pixels = Vec::with_capacity(3 * width * height);
        for row in from.1..from.1 + height {
            let begin = 3 * (row * self.width + from.0.min(self.width));
            let seen = 3 * width.min(self.width.saturating_sub(from.0));
            let line = if row < self.height { self.pixels.get(begin..begin + seen) } else { None };
            let line = line.unwrap_or_default();
            pixels.extend_from_slice(line);
            pixels.resize(pixels.len() + 3 * width - line.len(), 0);
        }
        self.put((x, y, width, height), &pixels);
    }

    /// The picture on another canvas: in its middle where it is smaller, cut off where it is larger, black around it.
    pub fn on_canvas(&self, width: usize, height: usize) -> Vec<u8> {
        if (width, height) == (self.width, self.height) {
            return self.pixels.clone();
        }
        let mut canvas = vec![0; 3 * width * height];
        let (seen, rows) = (width.min(self.width), height.min(self.height));
        let (left, top) = ((width - seen) / 2, (height - rows) / 2);
        for y in 0..rows {
            let (to, from) = (3 * ((top + y) * width + left), 3 * y * self.width);
            canvas[to..to + 3 * seen].copy_from_slice(&self.pixels[from..from + 3 * seen]);
        }
        canvas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: [u8; 3] = [255, 0, 0];

    #[test]
    fn whatever_is_outside_is_left_out() {
        let mut picture = Picture::default();
        picture.resize(4, 3);
        picture.fill((2, 1, 9, 9), RED);
        assert_eq!((picture.at(2, 1), picture.at(3, 2), picture.at(1, 1)), (Some(RED), Some(RED), Some([0; 3])));
        picture.copy((0, 0, 2, 2), (2, 1));
        assert_eq!((picture.at(0, 0), picture.at(1, 1)), (Some(RED), Some(RED)));
        picture.copy((0, 0, 9, 9), (3, 2));
        assert_eq!(picture.at(0, 0), Some(RED));
        picture.put((3, 0, 2, 1), &[1; 6]);
        assert_eq!((picture.at(3, 0), picture.at(4, 0)), (Some([1; 3]), None));
        picture.put((9, 9, 2, 1), &[1; 6]);
        picture.fill((9, 9, 2, 1), RED);
        picture.resize(2, 2);
        assert_eq!(picture.at(0, 0), Some(RED));
    }

    #[test]
    fn a_smaller_picture_is_in_the_middle_of_its_canvas() {
        let mut picture = Picture::default();
        picture.resize(2, 2);
        picture.fill((0, 0, 2, 2), RED);
        let canvas = picture.on_canvas(4, 4);
        let reds: Vec<usize> = (0..16).filter(|pixel| canvas[3 * pixel..3 * pixel + 3] == RED).collect();
        assert_eq!(reds, [5, 6, 9, 10]);
        assert_eq!(picture.on_canvas(1, 1), RED);
    }
}
