//! Where the pointer is, what it looks like, and pictures with it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use helix_protocol::desktop::{CursorView, ImageFormat, Picture, Region, Reply, Screenshot};
use tokio::sync::Semaphore;
use x11rb::protocol::xfixes::{GetCursorImageReply, GetCursorImageRequest};
use x11rb::protocol::xproto::{MATCH_ERROR, QueryPointerRequest};

use super::encode::{Pixels, Pointer};
use super::{Desktop, DesktopError, Result};

/// Encoders at once, of all sessions: pictures must not take every core from the sessions themselves.
static ENCODERS: Semaphore = Semaphore::const_new(2);
/// Largest picture without an encoding: that of a screen of 3840x2160.
const MAX_RAW_BYTES: usize = 32 << 20;

impl Desktop {
    pub(super) async fn cursor(&self) -> Result<CursorView> {
        let pointer = self.x.ask(QueryPointerRequest { window: self.root() }).await?;
        Ok(CursorView { x: pointer.root_x.into(), y: pointer.root_y.into() })
    }

    /// The part of the screen that is asked for, if it is one.
    pub(super) fn region(&self, wanted: Option<Region>) -> Result<Region> {
        let (width, height) = self.screen();
        let Some(region) = wanted else { return Ok(Region { x: 0, y: 0, width, height }) };
        let ends =
            |start: u16, length: u16, side: u16| length > 0 && u32::from(start) + u32::from(length) <= side.into();
        if ends(region.x, region.width, width) && ends(region.y, region.height, height) {
            return Ok(region);
        }
        let detail = format!("region: {region} is not inside the screen, which is {width}x{height}");
        Err(DesktopError::Invalid(detail))
    }

    /// A picture, or the word that the caller has it. To say that nothing has changed takes no picture.
    pub(super) async fn screenshot(&self, wanted: Screenshot) -> Result<(Reply, Vec<u8>)> {
        match self.picture(wanted.clone()).await {
            // The screen has become smaller in the middle. By now its new size is known.
            Err(DesktopError::X(MATCH_ERROR)) => self.picture(wanted).await,
            taken => taken,
        }
    }

    async fn picture(&self, wanted: Screenshot) -> Result<(Reply, Vec<u8>)> {
        let region = self.region(wanted.region)?;
        let Screenshot { format, scale, quality, cursor, known, .. } = wanted;
        if !(0.1..=1.0).contains(&scale) {
            return Err(DesktopError::Invalid("scale: write 0.1 to 1".to_owned()));
        }
        if !(1..=100).contains(&quality) {
            return Err(DesktopError::Invalid("quality: write 1 to 100".to_owned()));
        }
        let raw_bytes = f64::from(region.width) * f64::from(region.height) * scale * scale * 4.0;
        if format == ImageFormat::Raw && raw_bytes > MAX_RAW_BYTES as f64 {
            let detail = "format: raw is at most 32 MiB; ask for a region, a scale or another format";
            return Err(DesktopError::Invalid(detail.to_owned()));
        }
        let pointer = self.x.ask_for(GetCursorImageRequest {}, MAX_CURSOR_BYTES).await?;
        // The reply came after every notice of what was drawn before.
        let drawn = self.watch.arm(&self.x).await?;
        let etag = {
            let mut hasher = DefaultHasher::new();
            (format, region, scale.to_bits(), quality, cursor).hash(&mut hasher);
            if cursor {
                (pointer.x, pointer.y, pointer.cursor_serial).hash(&mut hasher);
            }
            format!("\"{}-{drawn}-{:016x}\"", self.watch.nonce(), hasher.finish())
        };
        if known.contains(&etag) {
            return Ok((Reply::NotModified { etag }, Vec::new()));
        }
        let pointer = cursor.then(|| Pointer::from(pointer));
        let developed = self
            .capture(&ENCODERS, region, move |pixels| {
                let mut pixels = Pixels::of(region, pixels);
                if let Some(pointer) = pointer {
                    pixels.draw(&pointer, region.x.into(), region.y.into());
                }
                let pixels = pixels.scaled(scale);
                let (width, height) = (pixels.width, pixels.height);
                pixels.encoded(format, quality).map(|file| (file, width, height))
            })
            .await?;
        let (file, width, height) = developed?;
        Ok((Reply::Picture(Picture { etag, width, height }), file))
    }
}

/// A pointer of 512 pixels each side.
const MAX_CURSOR_BYTES: usize = 1 << 20;

impl From<GetCursorImageReply> for Pointer {
    fn from(reply: GetCursorImageReply) -> Self {
        let corner = |at: i16, hot: u16| i32::from(at) - i32::from(hot);
        Self {
            x: corner(reply.x, reply.xhot),
            y: corner(reply.y, reply.yhot),
            width: reply.width,
            image: reply.cursor_image,
        }
    }
}
