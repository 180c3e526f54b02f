//! Stable error codes: the `code` of every problem document and of every refusal on the link.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $text:literal;)*) => {
        /// Why a request was not done. The wire word never changes; new ones may come.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// HTTP status that goes with the code.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Short title for people, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON; `detail` has line and column.
    MalformedJson = 400, "the body is not valid JSON";
    /// A field is unknown, missing or out of range; `detail` names it.
    InvalidRequest = 400, "the request is not valid";
    /// `input` is longer than 50,000 characters, or empty where one is needed.
    InvalidInput = 400, "the input is not valid";
    /// No runner knows the kind.
    UnknownKind = 400, "no runner knows this kind";
    /// No bearer token.
    TokenMissing = 401, "a bearer token is needed";
    /// The token is unknown, expired or revoked.
    TokenInvalid = 401, "the token is not valid";
    /// The path leads out of the session's workspace.
    OutsideWorkspace = 403, "the path leads out of the workspace";
    /// The session's user may not do this with the file.
    FileDenied = 403, "the session's user may not do this";
    /// The token may not do this.
    Forbidden = 403, "the token does not allow this";
    /// `Origin` is not this server's.
    ForeignOrigin = 403, "the origin is not allowed";
    /// No such session.
    SessionNotFound = 404, "no such session";
    /// No such runner.
    RunnerNotFound = 404, "no such runner";
    /// No such thread in the session.
    ThreadNotFound = 404, "no such thread";
    /// No such turn in the thread.
    TurnNotFound = 404, "no such turn";
    /// No such question in the thread.
    QuestionNotFound = 404, "no such question";
    /// No such entry in the thread.
    EntryNotFound = 404, "no such entry";
    /// No such spec task.
    SpecTaskNotFound = 404, "no such spec task";
    /// No such window on the session's desktop.
    WindowNotFound = 404, "no such window";
    /// No such pool.
    PoolNotFound = 404, "no such pool";
    /// The session has no grant of that id.
    GrantNotFound = 404, "no such grant";
    /// No token of that id, or not yours to see.
    TokenNotFound = 404, "no such token";
    /// No secret of that name is stored.
    SecretNotFound = 404, "no such secret";
    /// No such file in the session's workspace.
    FileNotFound = 404, "no such file";
    /// No such recording, or not yours.
    RecordingNotFound = 404, "no such recording";
    /// The recording has no such chunk.
    ChunkNotFound = 404, "no such chunk";
    /// No such image, or no such tag of it; `detail` lists the tags.
    ImageNotFound = 404, "no such image";
    /// The session has no checkpoint of that number, or none at all.
    CheckpointNotFound = 404, "no such checkpoint";
    /// The session has no terminal of that name.
    TerminalNotFound = 404, "no such terminal";
    /// No such route.
    RouteNotFound = 404, "no such route";
    /// The route exists, the method does not.
    MethodNotAllowed = 405, "the method is not allowed here";
    /// The id is taken by a session with another body.
    SessionExists = 409, "a session with this id exists and differs";
    /// The change needs a session that has not started.
    SessionStarted = 409, "the session has started";
    /// The change needs a session that has not ended.
    SessionEnded = 409, "the session has ended";
    /// The session runs no desktop now.
    SessionNotReady = 409, "the session has no desktop now";
    /// The idempotency key was used for another prompt.
    PromptExists = 409, "the idempotency key was used for another prompt";
    /// The change needs a turn that is not over.
    TurnOver = 409, "the turn is over";
    /// The change needs a turn that is over.
    TurnNotOver = 409, "the turn is not over";
    /// The question has its answer.
    QuestionAnswered = 409, "the question is answered";
    /// The runner id is enrolled with another token.
    RunnerEnrolledElsewhere = 409, "the runner id is enrolled elsewhere";
    /// No sync socket of the session's agent is connected.
    NoSyncConnection = 409, "no sync connection";
    /// A file was wanted and the path is something else, or the other way round; `detail` says what it is.
    WrongFileKind = 409, "the path is of another kind";
    /// A directory with something in it is removed only with `recursive`.
    DirectoryNotEmpty = 409, "the directory is not empty";
    /// `offset` is not where the upload stands, or somebody else goes on with it.
    UploadMismatch = 409, "the upload stands elsewhere";
    /// Another writer was faster too often.
    Conflict = 409, "the record changed meanwhile";
    /// The chunk is not the one that comes next in the recording; `detail` says which does.
    ChunkMismatch = 409, "the chunk does not fit";
    /// Parts of the image are not here: bring them first. `detail` says how many.
    ImageIncomplete = 409, "parts of the image are missing";
    /// The image that is to be rolled back to was collected, or there never was one.
    NoRollback = 409, "there is nothing to roll back to";
    /// A tag, or a session, still uses the image.
    ImageInUse = 409, "the image is in use";
    /// A part of the checkpoint is missing, or is not what its digest says; nothing was changed.
    CheckpointDamaged = 409, "the checkpoint is damaged";
    /// The session's runner could not make the checkpoint; `detail` says why. Nothing was changed.
    CheckpointFailed = 409, "the checkpoint could not be made";
    /// The session moves already.
    SessionMoves = 409, "the session moves";
    /// The session is not unclaimed.
    NotUnclaimed = 409, "the session is not unclaimed";
    /// The clipboard holds more than can be told, or its owner does not give it.
    ClipboardUnavailable = 409, "the clipboard cannot be read";
    /// The path is gone for good; `detail` names the successor.
    Gone = 410, "the path is gone";
    /// The recording was deleted; `detail` says when and why.
    RecordingDeleted = 410, "the recording was deleted";
    /// Somebody else holds the control of the desktop; `detail` names who and what to do.
    ControlTaken = 409, "somebody else has the control";
    /// The body is larger than the limit.
    BodyTooLarge = 413, "the body is too large";
    /// The body is not `application/json`.
    UnsupportedMediaType = 415, "the body must be application/json";
    /// The part that was asked for is behind the file's end.
    RangeNotSatisfiable = 416, "the range is behind the end";
    /// The command cannot be started; `detail` says why.
    CommandNotStarted = 422, "the command cannot be started";
    /// A limit is above the most that the session's runner gives; `detail` has both.
    AboveMaximum = 422, "the limit is above the runner's maximum";
    /// The image is not signed by a key that the server trusts; `detail` has the fingerprints.
    ImageNotTrusted = 422, "the image is not signed by a trusted key";
    /// As many calls as may be are under way; try again when one of them is done.
    TooManyRequests = 429, "too many requests at once";
    /// As many sessions wait for the pool as may.
    PoolQueueFull = 429, "too many sessions wait for the pool";
    /// A ticket is unknown, used or expired.
    TicketInvalid = 401, "the ticket is not valid";
    /// The session has as many streams or terminals as it may have: end one first.
    TooManyStreams = 429, "too many streams are open";
    /// A fault of the server; `detail` has an id to look up in its log.
    Internal = 500, "internal error";
    /// NATS cannot be reached; nothing was done, repeat after `Retry-After`.
    StoreUnavailable = 503, "the store cannot be reached";
    /// The session's runner cannot be reached.
    RunnerUnavailable = 503, "the runner cannot be reached";
    /// The session's display does not answer, or has ended; `detail` says which.
    DisplayUnavailable = 503, "the display cannot be used";
    /// No runner is connected (documents' POST only).
    NoRunner = 503, "no runner is connected";
    /// This server or this session has no such service; `detail` says why.
    ServiceUnavailable = 503, "the service is not available";
    /// The session's disk is full, or its user's share of it; nothing was replaced.
    DiskFull = 507, "the disk is full";
    /// The store of recordings is full; nothing was stored, and what is there stays.
    RecordingsFull = 507, "the store of recordings is full";
    /// There is no room for checkpoints; nothing was stored, and what is there stays.
    CheckpointsFull = 507, "the store of checkpoints is full";
    /// What was waited for did not come in time; the request itself stands.
    WaitTimeout = 504, "the wait timed out";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The wire word: serde's, so that there is one spelling.
        let word = serde_json::to_value(self).ok();
        f.write_str(word.as_ref().and_then(serde_json::Value::as_str).unwrap_or("internal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_display_is_the_wire_word() {
        assert_eq!(ErrorCode::NoSyncConnection.to_string(), "no_sync_connection");
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }
}
