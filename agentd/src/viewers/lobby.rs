//! Who has come to a desktop, and who of them has proved that he may.
//!
//! Whoever comes has a [`Place`]. Those who have proved nothing yet are few, and whoever comes when they are too many takes the
//! place of the one who has waited longest, of where most come from: so neither a crowd nor a silent one keeps out who
//! knows a password, and nobody who is in loses his place. In memory, no task of its own.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use helix_protocol::SessionId;
use tokio_util::sync::CancellationToken;

/// Who have proved nothing, on this runner: those who were dialled, and those who came to its own ports.
const MAX_WAITING: usize = 256;
/// Of them, RDP clients of one session that came the same way: each has an xrdp.
const MAX_RDP_WAITING: usize = 8;
/// RDP clients of one session that are in: each costs some twenty megabytes of the session's memory.
const MAX_RDP: usize = 16;
/// At the ports of one session, and of these from one address; those who are in among them.
const MAX_DIRECT: usize = 128;
const MAX_OF_ONE: usize = 16;

/// As many as may be are in already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many viewers are there")]
pub struct Crowded;

/// All who have come. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Lobby {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    number: u64,
    /// Oldest first.
    guests: Vec<Guest>,
}

#[derive(Debug)]
struct Guest {
    number: u64,
    session: SessionId,
    /// From where, where he came to a port of this runner; none: through a server.
    from: Option<IpAddr>,
    is_rdp: bool,
    is_in: bool,
    away: CancellationToken,
}

/// Somebody's place; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    lobby: Lobby,
    number: u64,
    away: CancellationToken,
    was_refused: AtomicBool,
}

/// Of whom an address is: a household has as many of IPv6 as it likes, all with the same first half.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::from((address.to_bits() >> 64 << 64).to_be_bytes()),
        IpAddr::V4(_) => address,
    }
}

impl Lobby {
    /// Lets somebody wait, in another's place where there is no other.
    pub fn enter(&self, session: &SessionId, from: Option<IpAddr>) -> Result<Place, Crowded> {
        let (mut inner, from) = (self.lock(), from.map(neighbourhood));
        if from.is_some() {
            inner.make_room(MAX_OF_ONE, |guest| guest.session == *session && guest.from == from)?;
            inner.make_room(MAX_DIRECT, |guest| guest.session == *session && guest.from.is_some())?;
        }
        // Who knows no password keeps out nobody who has a ticket.
        inner.make_room(MAX_WAITING, |guest| !guest.is_in && guest.from.is_some() == from.is_some())?;
        inner.number += 1;
        let place = Place {
            lobby: self.clone(),
            number: inner.number,
            away: CancellationToken::new(),
            was_refused: AtomicBool::default(),
        };
        let (session, away) = (session.clone(), place.away.clone());
        inner.guests.push(Guest { number: place.number, session, from, is_rdp: false, is_in: false, away });
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Sees to it that fewer than `most` of these are there.
    fn make_room(&mut self, most: usize, is_one: impl Fn(&Guest) -> bool) -> Result<(), Crowded> {
        let ones: Vec<&Guest> = self.guests.iter().filter(|guest| is_one(guest)).collect();
        if ones.len() < most {
            return Ok(());
        }
        let waiting = || ones.iter().filter(|guest| !guest.is_in);
        // Those who were dialled come from the server, all of them; they are told apart by where they want to go.
        let beside = |guest: &Guest| {
            let is_beside =
                |other: &&&Guest| other.from == guest.from && (guest.from.is_some() || other.session == guest.session);
            waiting().filter(is_beside).count()
        };
        let victim = waiting().max_by_key(|guest| (beside(guest), Reverse(guest.number))).ok_or(Crowded)?;
        victim.away.cancel();
        let number = victim.number;
        self.guests.retain(|guest| guest.number != number);
        Ok(())
    }

    fn find(&mut self, number: u64) -> Option<&mut Guest> {
        self.guests.iter_mut().find(|guest| guest.number == number)
    }
}

impl Place {
    /// He speaks RDP.
    pub fn speaks_rdp(&self) -> Result<(), Crowded> {
        let mut inner = self.lobby.lock();
        let own = inner.find(self.number).map(|guest| (guest.session.clone(), guest.from.is_some()));
        let Some((session, is_direct)) = own else { return Err(Crowded) };
        inner.make_room(MAX_RDP_WAITING, |guest| {
            guest.session == session && guest.from.is_some() == is_direct && guest.is_rdp && !guest.is_in
        })?;
        if let Some(guest) = inner.find(self.number) {
            guest.is_rdp = true;
        }
        Ok(())
    }

    /// He has proved that he may: nobody takes his place any more.
    pub fn comes_in(&self) -> Result<(), Crowded> {
        let mut inner = self.lobby.lock();
        // Sent away at this very moment.
        let Some(guest) = inner.find(self.number) else { return Err(Crowded) };
        let session = guest.is_rdp.then(|| guest.session.clone());
        let is_one = |guest: &&Guest| guest.is_rdp && guest.is_in && Some(&guest.session) == session.as_ref();
        if inner.guests.iter().filter(is_one).count() >= MAX_RDP {
            return Err(Crowded);
        }
        if let Some(guest) = inner.find(self.number) {
            guest.is_in = true;
        }
        Ok(())
    }

    /// He is refused; false where he was already: whatever comes of that is the same refusal.
    pub fn refuse(&self) -> bool {
        !self.was_refused.swap(true, Ordering::Relaxed)
    }

    /// Completes when somebody else has his place.
    pub async fn sent_away(&self) {
        self.away.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.lock().guests.retain(|guest| guest.number != self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may panic
mod tests {
    use super::*;

    fn desk() -> SessionId {
        SessionId::parse("desk").unwrap()
    }

    /// To the desk, from this address.
    fn enter(lobby: &Lobby, last: u8) -> Result<Place, Crowded> {
        lobby.enter(&desk(), Some(IpAddr::from([10, 0, 0, last])))
    }

    fn is_away(place: &Place) -> bool {
        place.away.is_cancelled()
    }

    #[test]
    fn who_is_silent_keeps_out_nobody_of_his_address() {
        let lobby = Lobby::default();
        let first = enter(&lobby, 1).unwrap();
        first.comes_in().unwrap();
        let silent: Vec<Place> = (1..MAX_OF_ONE).map(|_| enter(&lobby, 1).unwrap()).collect();
        let elsewhere = enter(&lobby, 2).unwrap();
        assert!(!silent.iter().any(is_away));
        let next = enter(&lobby, 1).unwrap();
        assert!(is_away(&silent[0]) && !silent[1..].iter().any(is_away), "the oldest goes");
        assert!(!is_away(&first) && !is_away(&elsewhere) && !is_away(&next));
        assert_eq!(silent[0].comes_in(), Err(Crowded), "too late");
        // Only where all of them are in there is no room.
        drop(silent);
        let inside: Vec<Place> = (2..MAX_OF_ONE).map(|_| enter(&lobby, 1).unwrap()).collect();
        assert!(inside.iter().all(|place| place.comes_in().is_ok()));
        next.comes_in().unwrap();
        assert_eq!(enter(&lobby, 1).unwrap_err(), Crowded);
        drop(next);
        assert!(enter(&lobby, 1).is_ok());
    }

    #[test]
    fn a_crowd_goes_before_one_who_comes_alone() {
        let lobby = Lobby::default();
        let rdp = |last| {
            let place = enter(&lobby, last).unwrap();
            place.speaks_rdp().unwrap();
            place
        };
        let alone = rdp(1);
        let crowd: Vec<Place> = (0..3 * MAX_RDP_WAITING).map(|_| rdp(2)).collect();
        assert!(!is_away(&alone), "he has time to say his password");
        assert_eq!(crowd.iter().filter(|place| !is_away(place)).count(), MAX_RDP_WAITING - 1);
        alone.comes_in().unwrap();
        // Those who are in have places of their own, and so has every session.
        let inside: Vec<Place> = (1..MAX_RDP).map(|number| rdp(10 + number as u8)).collect();
        let came_in = inside.iter().filter(|place| place.comes_in().is_ok()).count();
        assert!(came_in > 0 && !is_away(&alone));
        let other = lobby.enter(&SessionId::parse("other").unwrap(), Some(IpAddr::from([10, 0, 0, 2]))).unwrap();
        assert_eq!((other.speaks_rdp(), other.comes_in()), (Ok(()), Ok(())));
    }

    #[test]
    fn who_comes_without_a_ticket_keeps_out_nobody_who_has_one() {
        let lobby = Lobby::default();
        let dialled = lobby.enter(&desk(), None).unwrap();
        dialled.speaks_rdp().unwrap();
        let crowd = (0..3 * MAX_RDP_WAITING).map(|last| enter(&lobby, last as u8).unwrap());
        let crowd: Vec<Place> = crowd.inspect(|place| place.speaks_rdp().unwrap()).collect();
        assert_eq!(crowd.iter().filter(|place| !is_away(place)).count(), MAX_RDP_WAITING);
        assert_eq!(dialled.comes_in(), Ok(()));
        // A household of IPv6 is one address.
        let house = |last: u64| IpAddr::from((0x2001_0db8_0000_0001_u128 << 64 | u128::from(last)).to_be_bytes());
        let silent: Vec<Place> =
            (0..=MAX_OF_ONE as u64).map(|last| lobby.enter(&desk(), Some(house(last))).unwrap()).collect();
        assert_eq!(silent.iter().filter(|place| !is_away(place)).count(), MAX_OF_ONE);
    }

    #[test]
    fn so_many_rdp_clients_are_in_and_no_more() {
        let lobby = Lobby::default();
        let enter = |session: &SessionId| {
            let place = lobby.enter(session, None).unwrap();
            place.speaks_rdp().unwrap();
            place
        };
        let inside: Vec<Place> =
            (0..MAX_RDP).map(|_| enter(&desk())).inspect(|place| place.comes_in().unwrap()).collect();
        let late = enter(&desk());
        assert_eq!(late.comes_in(), Err(Crowded));
        drop(inside);
        assert_eq!(late.comes_in(), Ok(()));
    }
}
