//! Tight: rectangles of one colour, as a JPEG, or as pixels behind a filter and one of four zlib streams, which live as
//! long as their connection. Pixels are three bytes: red, green, blue.

use flate2::{Decompress, FlushDecompress};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::rfb::Reader;
use super::{Picture, ReplayError};

/// So little is not compressed.
const UNCOMPRESSED: usize = 12;
/// Widest rectangle of this encoding.
const MAX_WIDTH: usize = 2048;

/// The streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Tight {
    streams: [Option<Decompress>; 4],
}

/// How the pixels of a rectangle are written.
enum Filter<'a> {
    Copy,
    /// Colours, three bytes each.
    Palette(&'a [u8]),
    Gradient,
}

/// A rectangle that has come whole.
enum Body<'a> {
    Fill([u8; 3]),
    Jpeg(&'a [u8]),
    /// Number of its stream; none where it is not compressed.
    Pixels {
        filter: Filter<'a>,
        stream: Option<usize>,
        raw: usize,
        data: &'a [u8],
    },
}

impl Tight {
    /// Draws one rectangle. None where it is not whole yet; then nothing was done.
    pub(super) fn rectangle(
        &mut self,
        reader: &mut Reader<'_>,
        place: (usize, usize, usize, usize),
        picture: &mut Picture,
    ) -> Result<Option<()>, ReplayError> {
        let (_, _, width, height) = place;
        let Some(control) = reader.u8() else { return Ok(None) };
        let Some(body) = body(reader, control, width, height)? else { return Ok(None) };
        for (number, stream) in self.streams.iter_mut().enumerate() {
            if control & 1 << number != 0 {
                *stream = None;
            }
        }
        match body {
            Body::Fill(colour) => picture.fill(place, colour),
            Body::Jpeg(data) => picture.put(place, &jpeg(data, width, height)?),
            Body::Pixels { filter, stream, raw, data } => {
                let unpacked;
                let pixels = match stream {
                    Some(stream) => {
                        unpacked = self.unpack(stream, data, raw)?;
                        &unpacked
                    }
                    None => data,
                };
                picture.put(place, &filtered(&filter, pixels, width, height)?);
            }
        }
        Ok(Some(()))
    }

    fn unpack(&mut self, number: usize, data: &[u8], raw: usize) -> Result<Vec<u8>, ReplayError> {
        let stream = self.streams[number].get_or_insert_with(|| Decompress::new(true));
        let mut pixels = Vec::with_capacity(raw);
        let (mut from, begin) = (0, stream.total_in());
        while pixels.len() < raw && from < data.len() {
            let before = (pixels.len(), from);
            stream
                .decompress_vec(&data[from..], &mut pixels, FlushDecompress::Sync)
                .map_err(|error| ReplayError::Packed(error.to_string()))?;
            from = (stream.total_in() - begin) as usize;
            if (pixels.len(), from) == before {
                break;
            }
        }
        // The end of the flushed block, behind the last pixel.
        while from < data.len() {
            let before = from;
            let mut none = Vec::with_capacity(1);
            stream
                .decompress_vec(&data[from..], &mut none, FlushDecompress::Sync)
                .map_err(|error| ReplayError::Packed(error.to_string()))?;
            from = (stream.total_in() - begin) as usize;
            if from == before || !none.is_empty() {
                break;
            }
        }
        if pixels.len() == raw { Ok(pixels) } else { Err(ReplayError::Packed("there are too few of them".to_owned())) }
    }
}

fn body<'a>(
    reader: &mut Reader<'a>,
    control: u8,
    width: usize,
    height: usize,
) -> Result<Option<Body<'a>>, ReplayError> {
    let kind = control >> 4;
    if kind == 8 {
        return Ok(reader.take(3).map(|colour| Body::Fill([colour[0], colour[1], colour[2]])));
    }
    if kind == 9 {
        return Ok(compact(reader).and_then(|length| reader.take(length)).map(Body::Jpeg));
    }
    if kind > 9 {
        return Err(ReplayError::Unexpected("a rectangle of no known kind"));
    }
    if width > MAX_WIDTH {
        return Err(ReplayError::Unexpected("a rectangle that is too wide"));
    }
    let filter = if kind & 4 == 0 { Some(0) } else { reader.u8() };
    let (filter, raw) = match filter {
        None => return Ok(None),
        Some(0) => (Filter::Copy, 3 * width * height),
        Some(1) => {
            let colours = reader.u8().and_then(|last| reader.take(3 * (usize::from(last) + 1)));
            let Some(colours) = colours else { return Ok(None) };
            let row = if colours.len() == 6 { width.div_ceil(8) } else { width };
            (Filter::Palette(colours), row * height)
        }
        Some(2) => (Filter::Gradient, 3 * width * height),
        Some(_) => return Err(ReplayError::Unexpected("a filter that is not known")),
    };
    if raw < UNCOMPRESSED {
        return Ok(reader.take(raw).map(|data| Body::Pixels { filter, stream: None, raw, data }));
    }
    let stream = Some(usize::from(kind & 3));
    Ok(compact(reader).and_then(|length| reader.take(length)).map(|data| Body::Pixels { filter, stream, raw, data }))
}

/// A length in one to three bytes.
fn compact(reader: &mut Reader<'_>) -> Option<usize> {
    let mut length = 0;
    for shift in [0, 7, 14] {
        let byte = usize::from(reader.u8()?);
        length |= (if shift == 14 { byte } else { byte & 0x7f }) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(length)
}

/// Pixels of what was unpacked.
fn filtered(filter: &Filter<'_>, data: &[u8], width: usize, height: usize) -> Result<Vec<u8>, ReplayError> {
    match filter {
        Filter::Copy => Ok(data.to_vec()),
        Filter::Palette(colours) => {
            let mut pixels = Vec::with_capacity(3 * width * height);
            let colour = |index: usize| {
                colours.get(3 * index..3 * index + 3).ok_or(ReplayError::Unexpected("a colour that is not there"))
            };
            if colours.len() == 6 {
                for row in data.chunks_exact(width.div_ceil(8).max(1)) {
                    for x in 0..width {
                        pixels.extend_from_slice(colour(usize::from(row[x / 8] >> (7 - x % 8) & 1))?);
                    }
                }
            } else {
                for index in data {
                    pixels.extend_from_slice(colour(usize::from(*index))?);
                }
            }
            Ok(pixels)
        }
        Filter::Gradient => {
            let mut pixels = vec![0_u8; 3 * width * height];
            for y in 0..height {
                for x in 0..3 * width {
                    let at = y * 3 * width + x;
                    let left = if x >= 3 { i16::from(pixels[at - 3]) } else { 0 };
                    let above = if y > 0 { i16::from(pixels[at - 3 * width]) } else { 0 };
                    let both = if x >= 3 && y > 0 { i16::from(pixels[at - 3 * width - 3]) } else { 0 };
                    let guess = (left + above - both).clamp(0, 255) as u8;
                    pixels[at] = data[at].wrapping_add(guess);
                }
            }
            Ok(pixels)
        }
    }
}

fn jpeg(data: &[u8], width: usize, height: usize) -> Result<Vec<u8>, ReplayError> {
    let options =
        DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB).set_max_width(width).set_max_height(height);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(data), options);
    let pixels = decoder.decode().map_err(|error| ReplayError::Packed(error.to_string()))?;
    if pixels.len() != 3 * width * height {
        return Err(ReplayError::Packed("a JPEG of another size".to_owned()));
    }
    Ok(pixels)
}
