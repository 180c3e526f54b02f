//! The size of the screen, and another one (RANDR).

use std::sync::Arc;
use std::time::Duration;

use helix_protocol::desktop::{DisplaySize, DisplayView};
use x11rb::NONE;
use x11rb::protocol::randr::{
    AddOutputModeRequest, CreateModeRequest, DeleteOutputModeRequest, DestroyModeRequest, GetCrtcInfoRequest,
    GetOutputInfoRequest, GetScreenResourcesCurrentReply, GetScreenResourcesCurrentRequest, GetScreenSizeRangeRequest,
    Mode, ModeInfo, Output, Rotation, SetConfig, SetCrtcConfigRequest, SetScreenSizeRequest,
};
use x11rb::protocol::xproto::{GrabServerRequest, UngrabServerRequest};

use super::connection::Connection;
use super::{Desktop, DesktopError, Result};

/// Smallest and largest side, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 64..=8192;
/// Most pixels: those of 7680x4320.
const MAX_PIXELS: u32 = 7680 * 4320;
/// For the display to tell its new size.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Dots per inch that programs are told.
const DPI: f64 = 96.0;
/// Replies with a list of modes.
const MAX_RESOURCES: usize = 1 << 20;

/// No other program is served until this is dropped.
struct Grabbed<'a>(&'a Connection);

impl Drop for Grabbed<'_> {
    fn drop(&mut self) {
        self.0.tell_last(UngrabServerRequest {});
    }
}

impl Desktop {
    /// The size as it is.
    pub(super) fn display(&self) -> DisplayView {
        let (width, height) = self.screen();
        let depth = self.x.setup.roots.first().map_or(0, |screen| screen.root_depth);
        DisplayView { width: width.into(), height: height.into(), depth }
    }

    /// Gives the screen that size. Once begun it is done, whether or not its caller stays: in the middle of it the
    /// screen shows nothing.
    pub(super) async fn resize(self: &Arc<Self>, wanted: DisplaySize) -> Result<DisplayView> {
        let desktop = self.clone();
        let resizing = tokio::spawn(async move { desktop.resize_now(wanted).await });
        resizing.await.map_err(|error| DesktopError::Fault(error.to_string()))?
    }

    async fn resize_now(&self, wanted: DisplaySize) -> Result<DisplayView> {
        let DisplaySize { width, height } = wanted;
        for (name, side) in [("width", width), ("height", height)] {
            if !SIDES.contains(&side) {
                let detail = format!("{name}: {side} pixels; write {} to {}", SIDES.start(), SIDES.end());
                return Err(DesktopError::Invalid(detail));
            }
        }
        if width * height > MAX_PIXELS {
            return Err(DesktopError::Invalid(format!("width: {width}x{height} is more than the pixels of 7680x4320")));
        }
        // One after the other: each sets several things that belong together.
        let mut own_mode = self.own_mode.lock().await;
        let size = (width as u16, height as u16);
        let mut screen = self.x.screen();
        if self.screen() == size {
            return Ok(self.display());
        }
        self.set_size(size, &mut own_mode).await?;
        let told = tokio::time::timeout(EFFECT_TIMEOUT, screen.wait_for(|now| *now == size)).await;
        told.map_err(|_| DesktopError::Late(format!("the display did not become {width}x{height} in time")))?
            .map_err(|_| DesktopError::gone())?;
        Ok(self.display())
    }

    async fn set_size(&self, (width, height): (u16, u16), own_mode: &mut Option<Mode>) -> Result<()> {
        let (x, window) = (&self.x, self.root());
        let range = x.ask(GetScreenSizeRangeRequest { window }).await?;
        if !(range.min_width..=range.max_width).contains(&width)
            || !(range.min_height..=range.max_height).contains(&height)
        {
            let detail = format!("its largest size is {}x{}", range.max_width, range.max_height);
            return Err(DesktopError::Unsupported(detail));
        }
        let resources = x.ask_for(GetScreenResourcesCurrentRequest { window }, MAX_RESOURCES).await?;
        let (Some(output), Some(crtc)) = (resources.outputs.first().copied(), resources.crtcs.first().copied()) else {
            return Err(DesktopError::Unsupported("it has no output that could have another size".to_owned()));
        };
        let former = *own_mode;
        let known = self.mode_of(&resources, output, (width, height)).await?;
        let mode = if let Some(mode) = known { mode } else { self.new_mode(output, (width, height)).await? };
        *own_mode = Some(mode).filter(|mode| known.is_none() || former == Some(*mode));
        let now = x.ask(GetCrtcInfoRequest { crtc, config_timestamp: resources.config_timestamp }).await?;
        let configure = |mode: Mode, outputs: Vec<Output>| SetCrtcConfigRequest {
            crtc,
            timestamp: x11rb::CURRENT_TIME,
            config_timestamp: resources.config_timestamp,
            x: 0,
            y: 0,
            mode,
            rotation: Rotation::ROTATE0,
            outputs: outputs.into(),
        };
        let resized = |width: u16, height: u16| {
            let millimetres = |pixels: u16| (f64::from(pixels) * 25.4 / DPI).round() as u32;
            let (mm_width, mm_height) = (millimetres(width), millimetres(height));
            SetScreenSizeRequest { window, width, height, mm_width, mm_height }
        };
        // No other program sees a screen and an output that do not fit each other.
        x.tell(GrabServerRequest {}).await?;
        let grabbed = Grabbed(x);
        if now.width > width || now.height > height {
            x.ask(configure(NONE, Vec::new())).await?;
        }
        x.tell(resized(width, height)).await?;
        let set = x.ask(configure(mode, vec![output])).await;
        if !matches!(&set, Ok(set) if set.status == SetConfig::SUCCESS) {
            // As it was.
            x.tell(resized(now.width, now.height)).await?;
            x.ask(configure(now.mode, vec![output])).await?;
            set?;
            return Err(DesktopError::Unsupported(format!("it refuses {width}x{height}")));
        }
        drop(grabbed);
        if let Some(former) = former.filter(|former| *former != mode) {
            x.tell(DeleteOutputModeRequest { output, mode: former }).await?;
            x.tell(DestroyModeRequest { mode: former }).await?;
        }
        Ok(())
    }

    /// A mode of that size that the output has.
    async fn mode_of(
        &self,
        resources: &GetScreenResourcesCurrentReply,
        output: Output,
        (width, height): (u16, u16),
    ) -> Result<Option<Mode>> {
        let info = self.x.ask(GetOutputInfoRequest { output, config_timestamp: resources.config_timestamp }).await?;
        let fits = |mode: &&ModeInfo| (mode.width, mode.height) == (width, height) && info.modes.contains(&mode.id);
        Ok(resources.modes.iter().find(fits).map(|mode| mode.id))
    }

    async fn new_mode(&self, output: Output, (width, height): (u16, u16)) -> Result<Mode> {
        let name = format!("helix-{width}x{height}");
        let mode_info = ModeInfo {
            width,
            height,
            // 60 pictures a second, for programs that ask.
            dot_clock: u32::from(width) * u32::from(height) * 60,
            hsync_end: width,
            htotal: width,
            vsync_end: height,
            vtotal: height,
            name_len: name.len() as u16,
            ..ModeInfo::default()
        };
        let request = CreateModeRequest { window: self.root(), mode_info, name: name.as_bytes().into() };
        let mode = self.x.ask(request).await?.mode;
        self.x.tell(AddOutputModeRequest { output, mode }).await?;
        Ok(mode)
    }
}
