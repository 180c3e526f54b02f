//! A viewer at a display: its [`line`](super::line) on one side, a unix socket on the other, and the gate between.
//!
//! What the display sends is copied blind; what the viewer sends goes through [`Door`] and [`Filter`]. Each direction reads only
//! after it has written, so a slow viewer slows its display's sender and nothing is queued.

use std::time::Duration;

use bytes::Bytes;
use helix_protocol::control::{Control, Role, Viewer};
use helix_protocol::recording::RecordedEvent;
use helix_protocol::{GrantId, SessionId};
use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;

use super::line::{Hear, Say, tell};
use super::{Door, Fault, Filter, Granted, Step};
use crate::recorder::notes::{Hands, Notes};
use crate::viewers::told::Joined;

/// A person may have to type the password first.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_mins(2);
/// Before a wrong password is told: each try costs this, and nobody else waits for it.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_secs(1);

/// Why a viewer is sent away. The texts are told where the line has a way to.
#[derive(Debug, thiserror::Error)]
pub enum ViewerError {
    /// None of the passwords is the one.
    #[error("the password is wrong")]
    WrongPassword,
    /// Another protocol.
    #[error("the viewer does not speak RFB")]
    NotRfb,
    /// It never said who it is.
    #[error("the viewer did not come in within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    NoHandshake,
    /// The grant that it came with is gone.
    #[error("the grant was revoked, or has expired")]
    Revoked,
    /// A message that may not pass.
    #[error(transparent)]
    Filtered(#[from] Fault),
    /// The system has no random bytes.
    #[error("no challenge can be made: {0}")]
    Random(std::io::Error),
}

/// Who a viewer must prove to be.
#[derive(Debug)]
pub enum Proof<'a> {
    /// This one, who came with a ticket; and a password, where it has one.
    Ticket(&'a Viewer),
    /// Whoever knows the password of one of these, in no more than this role.
    Grant(watch::Receiver<Granted>, Role),
}

/// One that came in.
#[derive(Debug)]
pub struct Admitted {
    /// Who it is.
    pub viewer: Viewer,
    /// Sent beyond the handshake: for the display.
    first: Vec<u8>,
    /// By what; none: by a ticket.
    grant: Option<Grantee>,
}

#[derive(Debug)]
struct Grantee {
    id: GrantId,
    expires_at: Timestamp,
    known: watch::Receiver<Granted>,
}

impl Admitted {
    /// By what it came in, where that was a password.
    pub fn by_password(&self) -> Option<Joined> {
        let grant = self.grant.as_ref().map(|grant| grant.id.clone());
        (grant.is_some() || self.viewer.password.is_some()).then(|| Joined { by: self.viewer.by.clone(), grant })
    }
}

impl Grantee {
    fn is_over(&self) -> bool {
        self.expires_at <= Timestamp::now() || self.known.borrow().list.iter().all(|grant| grant.id != self.id)
    }
}

/// The RFB handshake with the viewer, at most [`HANDSHAKE_TIMEOUT`] long. `None` where it left. `wrong` is called at once where its
/// password is wrong: it may leave before it is told.
pub async fn admit(
    hear: &mut impl Hear,
    say: &mut impl Say,
    proof: Proof<'_>,
    wrong: impl FnOnce(),
) -> Result<Option<Admitted>, ViewerError> {
    let talk = tokio::time::timeout(HANDSHAKE_TIMEOUT, talk(hear, say, proof, wrong));
    talk.await.unwrap_or(Err(ViewerError::NoHandshake))
}

async fn talk(
    hear: &mut impl Hear,
    say: &mut impl Say,
    proof: Proof<'_>,
    wrong: impl FnOnce(),
) -> Result<Option<Admitted>, ViewerError> {
    let mut wrong = Some(wrong);
    let (passwords, mut candidates) = candidates(proof);
    let (mut door, greeting) = Door::open(passwords).map_err(ViewerError::Random)?;
    if !say.say(Bytes::from_static(greeting)).await {
        return Ok(None);
    }
    loop {
        let Some(bytes) = hear.hear().await else { return Ok(None) };
        let mut reply = Vec::new();
        let step = door.take(&bytes, &mut reply);
        if step == Step::Wrong {
            if let Some(wrong) = wrong.take() {
                wrong();
            }
            tokio::time::sleep(WRONG_PASSWORD_PAUSE).await;
        }
        if !reply.is_empty() && !say.say(reply.into()).await {
            return Ok(None);
        }
        match step {
            Step::More => {}
            Step::In { rest, by } => {
                let (viewer, grant) = candidates.swap_remove(by);
                return Ok(Some(Admitted { viewer, first: rest, grant }));
            }
            Step::Wrong => return Err(ViewerError::WrongPassword),
            Step::Foreign => return Err(ViewerError::NotRfb),
        }
    }
}

/// Who somebody is that comes in, and by which grant.
type Candidate = (Viewer, Option<Grantee>);

/// The passwords that the door asks for, and who each of them is.
fn candidates(proof: Proof<'_>) -> (Option<Vec<String>>, Vec<Candidate>) {
    match proof {
        Proof::Ticket(viewer) => {
            let password = viewer.password.clone();
            (password.map(|password| vec![password]), vec![(viewer.clone(), None)])
        }
        Proof::Grant(known, most) => {
            let now = Timestamp::now();
            let live: Vec<_> = known.borrow().list.iter().filter(|grant| !grant.is_over(now)).cloned().collect();
            let passwords = live.iter().map(|grant| grant.viewer.password.clone().unwrap_or_default()).collect();
            let each = live.into_iter().map(|grant| {
                let role = if most == Role::View { Role::View } else { grant.viewer.role };
                let grantee = Grantee { id: grant.id, expires_at: grant.expires_at, known: known.clone() };
                (Viewer { role, ..grant.viewer }, Some(grantee))
            });
            (Some(passwords), each.collect())
        }
    }
}

/// Copies between one that is in and its display until either side ends, or the viewer may stay no longer.
pub async fn show(
    hear: &mut impl Hear,
    say: &mut impl Say,
    admitted: Admitted,
    display: UnixStream,
    control: watch::Receiver<Control>,
    recorder: (&Notes, &SessionId),
) -> Result<(), ViewerError> {
    let Admitted { viewer, first, grant } = admitted;
    // It may have been revoked between the challenge and the answer.
    if grant.as_ref().is_some_and(Grantee::is_over) {
        return Err(ViewerError::Revoked);
    }
    let (notes, session) = recorder;
    notes.tell(session, RecordedEvent::ViewerJoined { by: viewer.by.clone(), role: viewer.role });
    let (from_display, to_display) = display.into_split();
    // Whichever ends first ends both: the halves are dropped, and with them the sockets.
    let ended = tokio::select! {
        // First: what is read after it counts no more.
        biased;
        () = revoked(grant) => Err(ViewerError::Revoked),
        () = tell(from_display, say) => Ok(()),
        ended = to_the_display(first, hear, to_display, &viewer, control, recorder) => ended,
    };
    notes.tell(session, RecordedEvent::ViewerLeft { by: viewer.by.clone() });
    ended
}

/// Completes when the grant is gone from the list, or over.
async fn revoked(grant: Option<Grantee>) {
    let Some(Grantee { id, expires_at, mut known }) = grant else { return std::future::pending().await };
    let gone = known.wait_for(|granted| granted.list.iter().all(|grant| grant.id != id));
    let left = Duration::try_from(expires_at.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::select! {
        // The session is forgotten where it fails: its display is gone, too.
        _ = gone => {}
        () = tokio::time::sleep(left) => {}
    }
}

/// Bytes of the viewer's between two looks at the lease.
const PIECE_BYTES: usize = 4 * 1024;

async fn to_the_display(
    first: Vec<u8>,
    viewer_says: &mut impl Hear,
    mut display: OwnedWriteHalf,
    viewer: &Viewer,
    mut control: watch::Receiver<Control>,
    (notes, session): (&Notes, &SessionId),
) -> Result<(), ViewerError> {
    // A session is recorded from its first moment or never.
    let mut filter = if notes.is_recorded(session) { Filter::recorded() } else { Filter::default() };
    let mut hands = Hands::new(&viewer.by);
    let mut may_type = viewer.may_type(&control.borrow_and_update());
    let mut bytes = Bytes::from(first);
    loop {
        for piece in bytes.chunks(PIECE_BYTES) {
            if control.has_changed().unwrap_or(false) {
                look(&mut control, viewer, &mut may_type, &mut filter, &mut display).await?;
            }
            let mut passed = Vec::new();
            let taken = filter.take(piece, may_type, &mut passed);
            for event in filter.typed().into_iter().filter_map(|typed| hands.note(typed)) {
                notes.tell(session, event);
            }
            taken?;
            if !passed.is_empty() && display.write_all(&passed).await.is_err() {
                return Ok(());
            }
        }
        // Both arms are cancel safe. A change of the lease first: what is read after it counts by it.
        bytes = tokio::select! {
            biased;
            Ok(()) = control.changed() => {
                look(&mut control, viewer, &mut may_type, &mut filter, &mut display).await?;
                Bytes::new()
            }
            heard = viewer_says.hear() => match heard {
                Some(bytes) => bytes,
                None => return Ok(()),
            },
        };
    }
}

/// The lease changed: whoever is not heard any more lets go of what it holds down. A display that is gone is noticed by
/// who reads from it.
async fn look(
    control: &mut watch::Receiver<Control>,
    viewer: &Viewer,
    may_type: &mut bool,
    filter: &mut Filter,
    display: &mut OwnedWriteHalf,
) -> Result<(), ViewerError> {
    let may = viewer.may_type(&control.borrow_and_update());
    if std::mem::replace(may_type, may) && !may {
        let mut released = Vec::new();
        filter.let_go(&mut released)?;
        let _ = display.write_all(&released).await;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use helix_protocol::grant::Grant;
    use tokio::io::AsyncReadExt as _;

    use super::super::line::Plain;
    use super::super::{Gates, vnc_answer};
    use super::*;

    const PASSWORD: &str = "k3TqB9xw";

    /// Comes with the password, as far as the handshake goes.
    async fn come(known: watch::Receiver<Granted>) -> (UnixStream, Result<Option<Admitted>, ViewerError>) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (from, to) = server.into_split();
        let (mut hear, mut say) = (Plain(from), Plain(to));
        let knocks = async {
            let mut greeting = [0; 12];
            client.read_exact(&mut greeting).await.unwrap();
            client.write_all(&greeting).await.unwrap();
            let mut offered = [0; 2];
            client.read_exact(&mut offered).await.unwrap();
            client.write_all(&[2]).await.unwrap();
            let mut challenge = [0; 16];
            client.read_exact(&mut challenge).await.unwrap();
            client.write_all(&vnc_answer(PASSWORD, &challenge)).await.unwrap();
        };
        let (admitted, ()) =
            tokio::join!(admit(&mut hear, &mut say, Proof::Grant(known, Role::Control), || ()), knocks);
        (client, admitted)
    }

    #[tokio::test]
    async fn a_grant_that_expires_ends_what_it_opened_and_opens_nothing_more() {
        let (gates, session) = (Gates::default(), SessionId::parse("desk").unwrap());
        let viewer = Viewer {
            by: "ann".to_owned(),
            token: String::new(),
            seat: None,
            role: Role::Control,
            password: Some(PASSWORD.to_owned()),
        };
        let expires_at = Timestamp::now() + Duration::from_millis(500);
        gates.grant(&session, 1, &[Grant { id: GrantId::parse("one").unwrap(), viewer, expires_at }]);
        let (_client, admitted) = come(gates.grants(&session)).await;
        let admitted = admitted.unwrap().unwrap();
        assert_eq!(admitted.by_password().unwrap().grant, Some(GrantId::parse("one").unwrap()));
        let (display, _far) = UnixStream::pair().unwrap();
        let (_viewer, gate) = UnixStream::pair().unwrap();
        let (from, to) = gate.into_split();
        let (mut hear, mut say, notes) = (Plain(from), Plain(to), Notes::default());
        let shown = show(&mut hear, &mut say, admitted, display, gates.watch(&session), (&notes, &session));
        let ended = tokio::time::timeout(Duration::from_secs(10), shown).await.expect("it outlives its time");
        assert!(matches!(ended, Err(ViewerError::Revoked)), "{ended:?}");
        assert!(Timestamp::now() >= expires_at, "before its time");
        // The list still has it: nobody need have revoked it.
        assert_eq!(gates.grants(&session).borrow().list.len(), 1);
        let (_client, late) = come(gates.grants(&session)).await;
        assert!(matches!(late, Err(ViewerError::WrongPassword)), "{late:?}");
    }
}
