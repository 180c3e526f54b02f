//! Files to the host over SFTP, as the login, into a directory that is the login's alone. Root takes a copy of each and
//! proves it before it is used, so nothing depends on who else can write there.

use std::time::Duration;

use russh_sftp::client::{Config, SftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Connection;
use crate::error::{CliError, Kind, Result, chain};

/// Bytes handed over at once: progress is told after each.
const PIECE: usize = 1 << 20;
/// One piece, over a slow line.
const PIECE_WITHIN: Duration = Duration::from_mins(2);

/// Puts files into a directory, by name; `told` hears how many bytes went.
pub async fn put(
    connection: &Connection,
    dir: &str,
    files: &[(String, bytes::Bytes)],
    told: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    match send(connection, dir, files, told).await {
        Err(error) => Err(connection.or_lost(error).await),
        sent => sent,
    }
}

async fn send(
    connection: &Connection,
    dir: &str,
    files: &[(String, bytes::Bytes)],
    told: &(dyn Fn(u64) + Sync),
) -> Result<()> {
    let channel = connection.channel().await?;
    channel.request_subsystem(true, "sftp").await.map_err(|error| connection.lost(&error))?;
    let failed = |what: &str, why: String| {
        CliError::failed(format!("cannot upload {what}")).at(&connection.place).because(why).next(
            "see that there is room (df -h /var/lib) and that sshd has its sftp subsystem; nothing was changed yet",
        )
    };
    let config = Config {
        request_timeout_secs: 60,
        max_write_packet_len: 255 * 1024,
        max_concurrent_writes: 64,
        ..Config::default()
    };
    let session = SftpSession::new_with_config(channel.into_stream(), config).await;
    let session = session.map_err(|error| failed("anything", chain(&error)))?;
    for (name, content) in files {
        let slow = || CliError::new(Kind::TimedOut, format!("cannot upload {name}")).at(&connection.place);
        let sent = async {
            let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
            let private = FileAttributes { permissions: Some(0o600), ..FileAttributes::empty() };
            let path = format!("{dir}/{name}");
            let mut file = session
                .open_with_flags_and_attributes(path, flags, private)
                .await
                .map_err(|error| failed(name, chain(&error)))?;
            for piece in content.chunks(PIECE) {
                let written = timeout(PIECE_WITHIN, file.write_all(piece)).await.map_err(|_elapsed| slow())?;
                written.map_err(|error| failed(name, chain(&error)))?;
                told(piece.len() as u64);
            }
            let closed = timeout(PIECE_WITHIN, file.close()).await.map_err(|_elapsed| slow())?;
            closed.map_err(|error| failed(name, chain(&error)))
        };
        sent.await?;
    }
    // The files are closed; how the channel ends is nobody's concern.
    let _ = session.close().await;
    Ok(())
}
