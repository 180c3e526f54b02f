//! A tree of files becomes an image: one tar, cut into chunks, with an index.
//!
//! Four jobs at once, with bounded queues between, so that memory does not grow with the tree: one thread reads files
//! and writes the tar ([`tree`]), one hashes it whole, one cuts it (FastCDC), and one per processor hashes and compresses
//! chunks into the store. Whichever fails first ends the others by closing its queue.

mod tree;
pub mod volatile;

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use fastcdc::v2020::StreamCDC;
use helix_protocol::image::{self, CHUNK_BYTES, Chunk, Digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::store::{Put, Store};
use crate::error::{CliError, Result};

/// Bytes of the tar that go from thread to thread at once.
const BLOCK: usize = 1 << 20;
/// Blocks and chunks that wait in a queue.
const QUEUE: usize = 8;

/// A packed tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Length of the tar.
    pub tar_bytes: u64,
    /// SHA-256 of it.
    pub tar: Digest,
    /// The index, which is in the store.
    pub index: Digest,
    /// Chunks that it has.
    pub chunks: usize,
    /// Chunks that the store did not have.
    pub new_chunks: usize,
    /// Bytes that it grew by.
    pub new_bytes: u64,
}

/// Packs the tree below `root` into the store; nothing in it is later than `source_date` (seconds since 1970).
pub fn pack(root: &Path, source_date: u64, store: &Store) -> Result<Packed> {
    let failed = |error: io::Error| {
        CliError::failed("cannot pack the image").at(root.display()).because(error).next("helixctl image gc makes room")
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let (to_hash, blocks_to_hash) = sync_channel(QUEUE);
        let (to_cut, blocks_to_cut) = sync_channel(QUEUE);
        let (to_store, chunks) = sync_channel(QUEUE);
        let (done, stored) = channel();
        let tar = scope.spawn(move || tree::write(root, source_date, Blocks::new([to_hash, to_cut])));
        let hash = scope.spawn(move || hash(&blocks_to_hash));
        let cut = scope.spawn(move || cut(blocks_to_cut, &to_store));
        let chunks = Arc::new(Mutex::new(chunks));
        let keep: Vec<_> = (0..workers)
            .map(|_| {
                let (chunks, done) = (Arc::clone(&chunks), done.clone());
                scope.spawn(move || keep(store, &chunks, &done))
            })
            .collect();
        // The workers alone hold it now: when they are gone, the cutter finds its queue closed.
        drop(chunks);
        drop(done);
        let mut puts: Vec<(usize, Put)> = stored.iter().collect();
        for worker in keep {
            joined(worker)??;
        }
        // Of two that failed, the first one did for a reason of its own; the other one's queue was closed.
        let (tar, cut) = (joined(tar)?, joined(cut)?);
        let tar_bytes = tar.map_err(failed)?;
        cut.map_err(failed)?;
        let tar = joined(hash)?;
        puts.sort_unstable_by_key(|(number, _)| *number);
        let chunks: Vec<Chunk> = puts.iter().map(|(_, put)| put.chunk).collect();
        let index = store.put_chunk(&image::write_index(&chunks))?;
        let new = puts.iter().filter_map(|(_, put)| put.grown);
        Ok(Packed {
            tar_bytes,
            tar,
            index: index.chunk.digest,
            chunks: chunks.len(),
            new_chunks: new.clone().count(),
            new_bytes: new.sum::<u64>() + index.grown.unwrap_or(0),
        })
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_panic| CliError::failed("cannot pack the image").because("a thread of it panicked"))
}

fn hash(blocks: &Receiver<Arc<[u8]>>) -> Digest {
    let mut hash = Sha256::new();
    for block in blocks {
        hash.update(&block);
    }
    Digest::from_bytes(hash.finalize().into())
}

fn cut(blocks: Receiver<Arc<[u8]>>, chunks: &SyncSender<(usize, Vec<u8>)>) -> io::Result<()> {
    let (shortest, usual, longest) = CHUNK_BYTES;
    let blocks = Joined { blocks, block: Arc::from([]), at: 0 };
    let cuts = StreamCDC::new(blocks, shortest as usize, usual as usize, longest as usize);
    for (number, chunk) in cuts.enumerate() {
        let chunk = chunk.map_err(|error| io::Error::other(error.to_string()))?;
        chunks.send((number, chunk.data)).map_err(|_closed| io::ErrorKind::BrokenPipe)?;
    }
    Ok(())
}

fn keep(store: &Store, chunks: &Mutex<Receiver<(usize, Vec<u8>)>>, done: &Sender<(usize, Put)>) -> Result<()> {
    loop {
        let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, bytes)) = next else { return Ok(()) };
        let put = store.put_chunk(&bytes)?;
        if done.send((number, put)).is_err() {
            return Ok(());
        }
    }
}

/// Collects what is written into blocks, and sends each to all queues.
struct Blocks {
    block: Vec<u8>,
    queues: [SyncSender<Arc<[u8]>>; 2],
    written: u64,
}

impl Blocks {
    fn new(queues: [SyncSender<Arc<[u8]>>; 2]) -> Self {
        Self { block: Vec::with_capacity(BLOCK), queues, written: 0 }
    }
}

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        self.written += count as u64;
        if self.block.len() == BLOCK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let block: Arc<[u8]> = Arc::from(self.block.as_slice());
        self.block.clear();
        for queue in &self.queues {
            queue.send(Arc::clone(&block)).map_err(|_closed| io::ErrorKind::BrokenPipe)?;
        }
        Ok(())
    }
}

/// Blocks as one stream.
struct Joined {
    blocks: Receiver<Arc<[u8]>>,
    block: Arc<[u8]>,
    at: usize,
}

impl Read for Joined {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            let Ok(block) = self.blocks.recv() else { return Ok(0) };
            (self.block, self.at) = (block, 0);
        }
        let count = into.len().min(self.block.len() - self.at);
        into[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
