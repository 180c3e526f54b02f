//! Pixels of a display: through shared memory where it has MIT-SHM, over the socket elsewhere.
//!
//! The memory is a memfd of ours: the display writes into it, we read it with `pread`, so nothing is mapped here and
//! a display that misbehaves can spoil nothing but its own picture.

use std::hash::{DefaultHasher, Hasher as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use helix_protocol::desktop::Region;
use rustix::buffer::spare_capacity;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use tokio::sync::Semaphore;
use x11rb::protocol::shm;
use x11rb::protocol::xproto::{GetImageRequest, ImageFormat, MATCH_ERROR, Window};

use super::connection::{Connection, MAX_REPLY_BYTES};
use super::{Desktop, DesktopError, Result};

/// Looks at once, of all sessions: who waits for pixels must not take every core from the sessions themselves, nor
/// memory for a copy of each one's screen.
static LOOKS: Semaphore = Semaphore::const_new(2);

/// Bytes of a pixel: blue, green, red, nothing.
pub(super) const PIXEL_BYTES: usize = 4;

/// Takes pictures, one after the other: they share one piece of memory.
pub(super) struct Camera {
    root: Window,
    /// The display can write into memory that we hand it.
    shared: bool,
    film: Option<Film>,
}

/// Memory that the display writes into.
struct Film {
    memory: Arc<OwnedFd>,
    segment: shm::Seg,
    bytes: usize,
}

/// A picture that was taken and not yet read.
enum Shot {
    Film(Arc<OwnedFd>, usize),
    Reply(bytes::Bytes, usize),
}

impl Camera {
    pub fn new(root: Window, shared: bool) -> Self {
        Self { root, shared, film: None }
    }

    async fn shoot(&mut self, x: &Connection, region: Region) -> Result<Shot> {
        let bytes = usize::from(region.width) * usize::from(region.height) * PIXEL_BYTES;
        let (left, top) = (region.x.cast_signed(), region.y.cast_signed());
        if self.shared {
            self.load(x, bytes).await?;
            if let Some(film) = &self.film {
                let request = shm::GetImageRequest {
                    drawable: self.root,
                    x: left,
                    y: top,
                    width: region.width,
                    height: region.height,
                    plane_mask: !0,
                    format: ImageFormat::Z_PIXMAP.into(),
                    shmseg: film.segment,
                    offset: 0,
                };
                match x.ask(request).await {
                    Ok(reply) if reply.size as usize == bytes => return Ok(Shot::Film(film.memory.clone(), bytes)),
                    Ok(reply) => return Err(DesktopError::Protocol(format!("a picture of {} bytes", reply.size))),
                    // It could not take the memory (a limit of its own): the other way works. A part that is outside
                    // of the screen would be refused there, too.
                    Err(DesktopError::X(error)) if error != MATCH_ERROR => (self.shared, self.film) = (false, None),
                    Err(error) => return Err(error),
                }
            }
        }
        let request = GetImageRequest {
            format: ImageFormat::Z_PIXMAP,
            drawable: self.root,
            x: left,
            y: top,
            width: region.width,
            height: region.height,
            plane_mask: !0,
        };
        let reply = x.ask_raw(request, bytes.saturating_add(MAX_REPLY_BYTES)).await?;
        if reply.len() < REPLY_HEAD_BYTES + bytes {
            return Err(DesktopError::Protocol(format!("a picture of {} bytes", reply.len())));
        }
        Ok(Shot::Reply(reply, bytes))
    }

    /// Memory for so many bytes.
    async fn load(&mut self, x: &Connection, bytes: usize) -> Result<()> {
        if self.film.as_ref().is_some_and(|film| film.bytes >= bytes) {
            return Ok(());
        }
        if let Some(film) = self.film.take() {
            x.tell(shm::DetachRequest { shmseg: film.segment }).await?;
        }
        let memory = new_memory(bytes).map_err(|error| DesktopError::Fault(format!("no memory: {error}")))?;
        let theirs = memory.try_clone().map_err(|error| DesktopError::Fault(format!("no descriptor: {error}")))?;
        let segment = x.new_id();
        x.tell(shm::AttachFdRequest { shmseg: segment, shm_fd: theirs, read_only: false }).await?;
        self.film = Some(Film { memory: Arc::new(memory), segment, bytes });
        Ok(())
    }
}

/// Where the pixels begin in the reply to GetImage.
const REPLY_HEAD_BYTES: usize = 32;

/// Sealed, so that no one's view of it ends early.
fn new_memory(bytes: usize) -> std::io::Result<OwnedFd> {
    let memory = memfd_create("helix-screen", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, bytes as u64)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

impl Shot {
    /// The pixels. Blocking, if only for the time of a copy.
    fn read(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Reply(reply, bytes) => Ok(reply[REPLY_HEAD_BYTES..REPLY_HEAD_BYTES + bytes].to_vec()),
            Self::Film(memory, bytes) => {
                let mut pixels = Vec::with_capacity(bytes);
                while pixels.len() < bytes {
                    let at = pixels.len() as u64;
                    if rustix::io::pread(&memory, spare_capacity(&mut pixels), at)? == 0 {
                        return Err(std::io::ErrorKind::UnexpectedEof.into());
                    }
                }
                pixels.truncate(bytes);
                Ok(pixels)
            }
        }
    }
}

impl Desktop {
    /// Takes a picture and hands it to `develop` on a thread that may block. X's error `Match`: the screen has become
    /// too small for it. A place among `turns` is held from the copy of the pixels until `develop` is done, also when
    /// the caller has left; a session waits for one place at a time, and none is held while its display is waited for.
    pub(super) async fn capture<T: Send + 'static>(
        &self,
        turns: &'static Semaphore,
        region: Region,
        develop: impl FnOnce(Vec<u8>) -> T + Send + 'static,
    ) -> Result<T> {
        let mut camera = self.camera.lock().await;
        let shot = camera.shoot(&self.x, region).await?;
        let turn = turns.acquire().await.map_err(|error| DesktopError::Fault(error.to_string()))?;
        let read = tokio::task::spawn_blocking(move || (shot.read(), turn)).await;
        let (pixels, turn) = read.map_err(|error| DesktopError::Fault(error.to_string()))?;
        let pixels = pixels.map_err(|error| DesktopError::Fault(format!("the picture cannot be read: {error}")))?;
        // The next picture may be taken.
        drop(camera);
        let developed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            develop(pixels)
        });
        developed.await.map_err(|error| DesktopError::Fault(error.to_string()))
    }

    /// A number that differs where the pixels differ.
    pub(super) async fn look(&self, region: Region) -> Result<u64> {
        self.capture(&LOOKS, region, |pixels| {
            let mut hasher = DefaultHasher::new();
            hasher.write(&pixels);
            hasher.finish()
        })
        .await
    }
}
