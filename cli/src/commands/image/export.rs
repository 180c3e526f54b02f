//! `helixctl image export`: an image as a tar or as a directory.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use helix_protocol::image::ImageRef;

use super::{CacheArgs, found};
use crate::error::{CliError, Kind, Result};
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
    out: PathBuf,
    /// Unpack it, owners and all; as root
    #[arg(long)]
    directory: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

/// Runs `image export`.
pub async fn run(args: &ExportArgs, ui: &Ui) -> Result<ExitCode> {
    let cache = args.cache.cache()?;
    let (digest, manifest) = found(&cache.store, &args.image)?;
    let out = &args.out;
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
