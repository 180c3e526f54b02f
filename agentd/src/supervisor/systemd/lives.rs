//! One at a time: units are started side by side, but not while their session is opened or ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

/// The lives of all sessions.
#[derive(Debug, Default)]
pub struct Lives {
    by_key: Mutex<HashMap<String, Arc<Life>>>,
}

/// One life of a session: from its first unit, or its opening, to its end.
#[derive(Debug, Default)]
pub struct Life {
    /// Read: a unit is being started. Write: the session is being opened, or the last of its end has begun.
    pub gate: RwLock<()>,
    ending: AtomicBool,
    over: CancellationToken,
    record: Arc<Turn>,
}

/// For changes of a session's record, one after another.
#[derive(Debug, Default)]
pub struct Turn(Mutex<()>);

impl Turn {
    /// Waits for the turn. For a blocking thread.
    pub fn lock(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    /// No unit is started any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// True from the first attempt to end it.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Waits until everything of it is gone.
    pub fn over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.over.clone().cancelled_owned()
    }

    /// For changes of its record.
    pub fn turn(&self) -> Arc<Turn> {
        self.record.clone()
    }
}

impl Lives {
    /// The session's present life.
    pub fn of(&self, key: &str) -> Arc<Life> {
        self.lock().entry(key.to_owned()).or_default().clone()
    }

    /// It is over: the next is another.
    pub fn forget(&self, key: &str, life: &Arc<Life>) {
        life.over.cancel();
        let mut lives = self.lock();
        if lives.get(key).is_some_and(|now| Arc::ptr_eq(now, life)) {
            lives.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Life>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
