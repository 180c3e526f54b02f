//! Who came to a desktop, or was sent away, where only its runner knows: the gate's words for the audit trail.
//!
//! A runner says them with its heartbeats until a server has them in the trail ([`crate::audit`]). No password is in them.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{GrantId, SessionId};

/// Where and how somebody came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Entrance {
    /// By which way.
    pub way: ViewerWay,
    /// From which address, where he came to the runner itself; of several, the last one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// Whose password he knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
}

/// The ways to a desktop that ask for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ViewerWay {
    /// VNC through a server.
    Vnc,
    /// RDP through a server.
    Rdp,
    /// VNC at a port of the runner.
    DirectVnc,
    /// RDP at a port of the runner.
    DirectRdp,
    /// The page beside a VNC port.
    DirectPage,
}

/// Why somebody was sent away: the `result` of his entry in the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No grant has this password, or the ticket has another one.
    WrongPassword,
    /// RDP: the client names another user than `zed`, or none.
    WrongUser,
    /// His network is not one of `[direct]`'s.
    ForeignNetwork,
    /// A browser, from a page that is not the runner's own.
    ForeignOrigin,
    /// He speaks no RFB.
    NotRfb,
    /// He speaks no RDP.
    NotRdp,
    /// He did not say in time who he is.
    Late,
    /// Too many were there, or others came and took his place.
    Crowded,
    /// The grant that he came with was revoked, or has expired.
    GrantOver,
    /// He was in, and sent what no viewer sends.
    Malformed,
}

impl Refusal {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::WrongUser => "wrong_user",
            Self::ForeignNetwork => "foreign_network",
            Self::ForeignOrigin => "foreign_origin",
            Self::NotRfb => "not_rfb",
            Self::NotRdp => "not_rdp",
            Self::Late => "late",
            Self::Crowded => "crowded",
            Self::GrantOver => "grant_over",
            Self::Malformed => "malformed",
        }
    }
}

impl ViewerWay {
    /// As people call it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Vnc => "VNC",
            Self::Rdp => "RDP",
            Self::DirectVnc => "direct VNC",
            Self::DirectRdp => "direct RDP",
            Self::DirectPage => "direct page",
        }
    }
}

/// One or more viewers that came in, or were sent away for the same cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewerNote {
    /// Grows with each note of a runner's, whatever agentd it is: who hears it twice knows that it is the same.
    pub number: u64,
    /// To whose desktop.
    pub session: SessionId,
    /// Where.
    pub entrance: Entrance,
    /// By the right of whose token: who made the grant, or asked for the ticket. None where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why he was sent away; none: he came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// How many in all, since the note before.
    pub count: u32,
    /// When the last of them.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_as_it_is_called() {
        for refusal in [
            Refusal::WrongPassword,
            Refusal::WrongUser,
            Refusal::ForeignNetwork,
            Refusal::ForeignOrigin,
            Refusal::NotRfb,
            Refusal::NotRdp,
            Refusal::Late,
            Refusal::Crowded,
            Refusal::GrantOver,
            Refusal::Malformed,
        ] {
            assert_eq!(serde_json::to_value(refusal).expect("a word"), refusal.word());
        }
    }
}
