//! `helixctl image export`: an image as a tar, as a directory, or as a bootable disk.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use helix_protocol::image::{Digest, ImageRef};
use helix_protocol::resources::Bytes;

use super::super::provision;
use super::{CacheArgs, found};
use crate::error::{CliError, Kind, Result};
use crate::images::cache::Cache;
use crate::images::disk::{self, Format, JoinWords};
use crate::images::export;
use crate::images::sandbox::{self, Rights};
use crate::images::worker::Job;
use crate::ui::Ui;

/// Arguments of `image export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// NAME, NAME:TAG or digest
    image: ImageRef,
    /// Tar that is written, - for standard output; with --directory a directory that is not there yet
    #[arg(required_unless_present = "disk")]
    out: Option<PathBuf>,
    /// Unpack it, owners and all; as root
    #[arg(long)]
    directory: bool,
    /// Bootable disk that is written instead, with agentd, which enrols at its first boot; of an image like `machine`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["out", "directory"])]
    disk: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// What a disk shall be.
#[derive(Debug, Args)]
struct MachineArgs {
    /// How the disk is written [default: qcow2 for FILE.qcow2, else raw]
    #[arg(long, requires = "disk")]
    format: Option<Format>,
    /// How large it is, for example 20GiB [default: the image and 2 GiB of room]
    #[arg(long, requires = "disk")]
    size: Option<Bytes>,
    /// File with lines like API_HOST=URL, API_TOKEN=TOKEN, LABELS=pool=ci that every machine of the disk is told; what is not
    /// in it comes from a seed disk or a credential
    #[arg(long, requires = "disk", value_name = "FILE")]
    join: Option<PathBuf>,
}

/// Runs `image export`.
pub async fn run(args: &ExportArgs, ui: &Ui) -> Result<ExitCode> {
    let cache = args.cache.cache()?;
    let (digest, manifest) = found(&cache.store, &args.image)?;
    if let Some(to) = &args.disk {
        return disk(args, &cache, digest, to, ui).await;
    }
    // One of both is required.
    let out = args.out.as_deref().unwrap_or(Path::new("-"));
    let failed = |error: io::Error| CliError::failed("cannot export the image").at(out.display()).because(error);
    if args.directory {
        if sandbox::rights()? != Rights::Root {
            return Err(CliError::new(Kind::Failed, "cannot unpack an image with its owners")
                .because("only root can give files to others")
                .next(format!("helixctl image export {} FILE.tar, or as root", args.image)));
        }
        let to = std::path::absolute(out).map_err(failed)?;
        let job = Job::Unpack { store: cache.store.dir().to_owned(), image: digest, to };
        sandbox::run(&job, &cache.part("logs").join("export.log")).await?;
    } else if out == Path::new("-") {
        if ui.json {
            return Err(
                CliError::new(Kind::Usage, "the tar and JSON cannot both go to standard output").next("name a file")
            );
        }
        export::tar(&cache.store, &digest, &mut Printed(ui)).map_err(failed)?;
        return Ok(ExitCode::SUCCESS);
    } else {
        let dir = out.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(".helix-export-").tempfile_in(dir).map_err(failed)?;
        let mut file = io::BufWriter::with_capacity(1 << 20, new.as_file_mut());
        export::tar(&cache.store, &digest, &mut file).map_err(failed)?;
        file.flush().map_err(failed)?;
        drop(file);
        new.persist(out).map_err(|error| failed(error.error))?;
    }
    let answer = serde_json::json!({ "digest": digest, "out": out, "tar_bytes": manifest.tar_bytes });
    ui.answer(&answer, || ui.line(&super::shown(out)))?;
    Ok(ExitCode::SUCCESS)
}

async fn disk(args: &ExportArgs, cache: &Cache, image: Digest, to: &Path, ui: &Ui) -> Result<ExitCode> {
    let machine = &args.machine;
    let ends_in_qcow2 = to.extension().is_some_and(|ending| ending == "qcow2");
    let join = machine.join.as_deref().map(JoinWords::read).transpose()?.unwrap_or_default();
    let agentd = provision::agentd()?;
    let request = disk::Request {
        image,
        to: to.to_owned(),
        format: machine.format.unwrap_or(if ends_in_qcow2 { Format::Qcow2 } else { Format::Raw }),
        size: machine.size.map(|size| size.0),
        join,
    };
    let progress = ui.progress();
    let made = disk::make(cache, request, &agentd, &|what| progress.now(what)).await?;
    drop(progress);
    ui.answer(&made, || ui.line(&super::shown(to)))?;
    if made.has_token && !ui.json {
        ui.note("an enrolment token is in this disk: keep it to yourself; each machine forgets it when it is enrolled");
    }
    Ok(ExitCode::SUCCESS)
}

/// Standard output as a stream of bytes.
struct Printed<'a>(&'a Ui);

impl io::Write for Printed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.stream_raw(bytes) {
            Ok(true) => Ok(bytes.len()),
            Ok(false) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
