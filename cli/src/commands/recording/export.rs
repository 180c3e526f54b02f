//! `recording export`: a film by ffmpeg, or the chunks as they are stored.
//!
//! The film has a fixed rate: every picture is what the desktop showed at that time. Pictures are drawn here and piped to
//! ffmpeg, one chunk in memory at a time. A desktop that was resized is in the middle of a canvas as large as its largest.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use helix_protocol::RecordingId;
use helix_protocol::recording::RecordingDetail;
use helix_protocol::recording::chunk::records;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use crate::client::Client;
use crate::error::{CliError, Result};
use crate::replay::Player;
use crate::ui::Ui;

/// Arguments of `recording export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Recording id
    id: RecordingId,
    /// Write a film (H.264); needs ffmpeg on this machine
    #[arg(long, value_name = "FILE", required_unless_present = "raw")]
    mp4: Option<PathBuf>,
    /// Pictures per second of the film
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60), conflicts_with = "raw")]
    fps: u32,
    /// Write the chunks as they are stored, one behind the other
    #[arg(long, value_name = "FILE", conflicts_with = "mp4")]
    raw: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Exported<'a> {
    recording: &'a RecordingId,
    file: &'a Path,
    chunks: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pictures: Option<u64>,
}

/// Exports one recording.
pub(super) async fn run(client: &Client, args: &ExportArgs, ui: &Ui) -> Result<()> {
    let detail = client.recording(&args.id).await?;
    let (file, pictures) = match (&args.mp4, &args.raw) {
        (Some(file), _) => (file, Some(film(client, &detail, file, args.fps, ui).await?)),
        (None, Some(file)) => (file, raw(client, &detail, file, ui).await.map(|()| None)?),
        (None, None) => return Err(CliError::failed("nothing to export to").next("give --mp4 FILE or --raw FILE")),
    };
    let exported = Exported { recording: &args.id, file, chunks: detail.recording.chunks, pictures };
    ui.answer(&exported, || ui.line(&file.display().to_string()))
}

/// The next chunk, which must be there.
async fn chunk(client: &Client, id: &RecordingId, number: u32) -> Result<Vec<u8>> {
    client.recording_chunk(id, number).await?.ok_or_else(|| {
        CliError::failed(format!("chunk {number} of the recording is missing"))
            .next(format!("helixctl recording verify {id}"))
    })
}

async fn raw(client: &Client, detail: &RecordingDetail, path: &Path, ui: &Ui) -> Result<()> {
    let failed = |error| CliError::failed("cannot write the recording").at(path.display()).because(error);
    let bar = ui.transfer(detail.recording.bytes);
    bar.file(detail.recording.id.as_str());
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    for number in 0..detail.recording.chunks {
        let bytes = chunk(client, &detail.recording.id, number).await?;
        file.write_all(&bytes).await.map_err(failed)?;
        bar.done(bytes.len() as u64);
    }
    file.flush().await.map_err(failed)
}

async fn film(client: &Client, detail: &RecordingDetail, path: &Path, fps: u32, ui: &Ui) -> Result<u64> {
    let recording = &detail.recording;
    let nothing = || CliError::failed("the recording has no picture").next("helixctl recording show tells its state");
    let segments = detail.chunk_list.iter().flat_map(|chunk| &chunk.segments);
    let (width, height) = segments.fold((0, 0), |(width, height), segment| {
        (width.max(usize::from(segment.width)), height.max(usize::from(segment.height)))
    });
    if width == 0 || height == 0 {
        return Err(nothing());
    }
    // H.264 has colours for each two by two pixels.
    let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
    let (ffmpeg, pipe) = ffmpeg(path, width, height, fps)?;
    let mut film = Film { pipe, width, height, step_us: 1_000_000 / u64::from(fps), next_us: None, pictures: 0 };
    let bar = ui.transfer(recording.bytes);
    bar.file(recording.id.as_str());
    let drawn = async {
        let mut player = Player::default();
        for number in 0..recording.chunks {
            let bytes = chunk(client, &recording.id, number).await?;
            for record in records(&bytes) {
                let broken = |error: &dyn std::fmt::Display| {
                    CliError::failed("cannot show the recording")
                        .at(format!("chunk {number}"))
                        .because(error)
                        .next(format!("helixctl recording verify {}", recording.id))
                };
                let record = record.map_err(|error| broken(&error))?;
                film.until(record.at_us, &player).await?;
                let drawn = player.take(&record).map_err(|error| broken(&error))?;
                if drawn {
                    film.next_us.get_or_insert(record.at_us);
                }
            }
            bar.done(bytes.len() as u64);
        }
        // The last picture, too.
        let end = film.next_us.unwrap_or(recording.duration_us).max(recording.duration_us).saturating_add(1);
        film.until(end, &player).await
    };
    let drawn = drawn.await;
    let pictures = film.pictures;
    // Its end of the pipe: ffmpeg writes the rest and ends.
    drop(film);
    let ended = ffmpeg.finished(path).await;
    match (drawn, ended) {
        // What ffmpeg says is the reason why it took nothing more.
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
        (Ok(()), Ok(())) if pictures == 0 => Err(nothing()),
        (Ok(()), Ok(())) => Ok(pictures),
    }
}

/// Pictures on their way to ffmpeg.
struct Film {
    pipe: ChildStdin,
    width: usize,
    height: usize,
    step_us: u64,
    /// Time of the next picture; none before there is one.
    next_us: Option<u64>,
    pictures: u64,
}

impl Film {
    /// Every picture before this time.
    async fn until(&mut self, until_us: u64, player: &Player) -> Result<()> {
        let Some(mut next_us) = self.next_us.filter(|next| *next < until_us) else { return Ok(()) };
        let canvas = player.picture().on_canvas(self.width, self.height);
        while next_us < until_us {
            let written = self.pipe.write_all(&canvas).await;
            written.map_err(|error| CliError::failed("ffmpeg takes no more pictures").because(error))?;
            self.pictures += 1;
            next_us = next_us.saturating_add(self.step_us);
        }
        self.next_us = Some(next_us);
        Ok(())
    }
}

/// ffmpeg, as it works on a film.
struct Ffmpeg(Child);

impl Ffmpeg {
    async fn finished(self, path: &Path) -> Result<()> {
        let failed = |why: String| CliError::failed("ffmpeg failed").at(path.display()).because(why);
        let output = self.0.wait_with_output().await.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())))
    }
}

fn ffmpeg(path: &Path, width: usize, height: usize, fps: u32) -> Result<(Ffmpeg, ChildStdin)> {
    let cannot = |error: std::io::Error| {
        let error = match error.kind() {
            std::io::ErrorKind::NotFound => "it is not installed".to_owned(),
            _ => error.to_string(),
        };
        CliError::failed("cannot run ffmpeg, which makes the film").because(error).next("apt-get install ffmpeg")
    };
    let mut child = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-nostdin", "-y", "-f", "rawvideo", "-pixel_format", "rgb24"])
        .args(["-video_size", &format!("{width}x{height}"), "-framerate", &fps.to_string(), "-i", "pipe:0"])
        .args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p"])
        .args(["-movflags", "+faststart", "-f", "mp4"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(cannot)?;
    let pipe = child.stdin.take().ok_or_else(|| CliError::failed("ffmpeg has no input"))?;
    Ok((Ffmpeg(child), pipe))
}
