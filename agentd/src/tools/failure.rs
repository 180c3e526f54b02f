//! What went wrong, in the words of the API: which file, why, and a stable code.

use std::io;

use helix_protocol::ErrorCode;
use helix_protocol::tools::Failure;
use rustix::io::Errno;

/// Why something could not be done with `path`.
pub(super) fn of_file(path: &str, error: Errno) -> Failure {
    let (code, why) = match error {
        Errno::XDEV => (ErrorCode::OutsideWorkspace, "it leads out of the session's workspace".to_owned()),
        Errno::NOENT => (ErrorCode::FileNotFound, "it does not exist".to_owned()),
        Errno::NOTDIR => (ErrorCode::WrongFileKind, "it, or something on the way to it, is no directory".to_owned()),
        Errno::ISDIR => (ErrorCode::WrongFileKind, "it is a directory".to_owned()),
        Errno::LOOP => (ErrorCode::WrongFileKind, "it is a link that leads nowhere, or changed meanwhile".to_owned()),
        Errno::NOTEMPTY | Errno::EXIST => (
            ErrorCode::DirectoryNotEmpty,
            "it is a directory with something in it; add recursive=true to remove that, too".to_owned(),
        ),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => {
            (ErrorCode::FileDenied, "the session's user has no permission".to_owned())
        }
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
            (ErrorCode::DiskFull, "the disk of the session is full; remove something and repeat".to_owned())
        }
        Errno::NAMETOOLONG => (ErrorCode::InvalidRequest, "it is too long, or too deep".to_owned()),
        Errno::INVAL => (ErrorCode::InvalidRequest, "this cannot be done with it".to_owned()),
        Errno::MFILE | Errno::NFILE => (ErrorCode::TooManyStreams, "too many files are open; repeat it".to_owned()),
        error => (ErrorCode::FileDenied, io::Error::from(error).to_string()),
    };
    Failure::new(code, format!("{path}: {why}"))
}

/// The same for an error of the standard library.
pub(super) fn of_io(path: &str, error: &io::Error) -> Failure {
    match Errno::from_io_error(error) {
        Some(errno) => of_file(path, errno),
        None => Failure::new(ErrorCode::FileDenied, format!("{path}: {error}")),
    }
}

/// Why a program was not started.
pub(super) fn of_start(program: &str, error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::NotFound => "there is no such program in the session; check its name and PATH".to_owned(),
        io::ErrorKind::PermissionDenied => "it is not executable for the session's user".to_owned(),
        _ => error.to_string(),
    };
    let program: String = program.chars().take(200).collect();
    Failure::new(ErrorCode::CommandNotStarted, format!("{program:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_way_out_have_codes_of_their_own() {
        for (error, code) in [
            (Errno::NOSPC, ErrorCode::DiskFull),
            (Errno::DQUOT, ErrorCode::DiskFull),
            (Errno::XDEV, ErrorCode::OutsideWorkspace),
            (Errno::NOENT, ErrorCode::FileNotFound),
            (Errno::ACCESS, ErrorCode::FileDenied),
        ] {
            let failure = of_io("a/b", &io::Error::from(error));
            assert_eq!(failure.code, code);
            assert!(failure.detail.starts_with("a/b: "), "{}", failure.detail);
        }
    }
}
