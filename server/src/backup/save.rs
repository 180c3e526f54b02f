//! Making a backup.

use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use super::archive::{Header, Writer};
use super::{Done, Fault, Kind, Say, StreamDone, connected, kept, shown, snapshot};
use crate::bus::restoring;
use crate::config::ServerConfig;
use crate::keys::Keys;

/// Between two lines about one large stream.
const REPORT_BYTES: u64 = 256 << 20;

/// Copies everything into a new file, or into one with the time in its name where `to` is a directory.
pub async fn save(config: &ServerConfig, keys: &Keys, to: &Path, say: Say<'_>) -> Result<Done, Fault> {
    let begun = Instant::now();
    let created_at = Timestamp::now();
    let path = file(to, created_at)?;
    let (client, jetstream) = connected(config, "helix-server backup").await?;
    let mark = restoring::standing(&jetstream).await.map_err(|err| {
        Fault::new(Kind::Unreachable, "cannot read the store").at(&config.nats.url).because(format!("{err:#}"))
    })?;
    if let Some(mark) = mark {
        return Err(Fault::new(Kind::Refused, "the store is not whole").because(restoring::Restoring(mark)));
    }
    let header = Header {
        created_at: created_at.to_string(),
        helix: env!("CARGO_PKG_VERSION").to_owned(),
        nats: client.server_info().version,
        server_key: keys.fingerprint().to_owned(),
    };
    let writer = std::cell::RefCell::new(Writer::create(&path, &header)?);
    let mut streams = Vec::new();
    for name in kept() {
        let (mut messages, mut bytes, mut told) = (0, 0_u64, 0);
        let head = |stream: &super::archive::Stream| {
            messages = stream.number("messages");
            writer.borrow_mut().begin(stream)
        };
        let piece = |piece: &[u8]| {
            bytes += piece.len() as u64;
            if bytes / REPORT_BYTES > told {
                told = bytes / REPORT_BYTES;
                say(&format!("{name}: {} MiB", bytes >> 20));
            }
            writer.borrow_mut().chunk(piece)
        };
        if !snapshot::out(&client, &name, head, piece).await? {
            continue;
        }
        let bytes = writer.borrow_mut().end()?;
        say(&format!("{name}: {messages} messages, {} KiB", bytes.div_ceil(1024)));
        streams.push(StreamDone { name, messages, bytes });
    }
    if streams.is_empty() {
        let why = "JetStream has no stream of Helix";
        return Err(Fault::failed("there is nothing to back up").at(&config.nats.url).because(why));
    }
    let (digest, bytes) = writer.into_inner().finish(keys)?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Done { file: shown(&path), created_at: header.created_at, digest, streams, bytes, seconds })
}

fn file(to: &Path, at: Timestamp) -> Result<PathBuf, Fault> {
    if to.is_dir() {
        return Ok(to.join(format!("helix-{}.backup", at.strftime("%Y%m%dT%H%M%SZ"))));
    }
    if to.symlink_metadata().is_ok() {
        let next = "name a file that is not there yet, or a directory";
        return Err(Fault::new(Kind::Usage, "the file is there already").at(shown(to)).next(next));
    }
    Ok(to.to_owned())
}
