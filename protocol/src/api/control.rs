//! Bodies of `/api/v1/sessions/{id}/control`: who may type in a session's desktop.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::Holder;
use crate::ids::Seat;

#[cfg(feature = "openapi")]
use utoipa::ToSchema;

/// `PUT …/control`: take the control, or keep it for longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct TakeControl {
    /// From where: the same word as in the ticket of the viewer, or in header `x-helix-seat` of calls that type.
    pub seat: Seat,
    /// Seconds until it is free again unless this request is repeated, 10 to 3600; 120 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// Not from somebody who holds it: 409 `control_taken` then. A session's own token never takes it from anybody.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub if_free: bool,
}

/// Who may type in a session's desktop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(ToSchema))]
pub struct ControlView {
    /// Counter of changes.
    pub epoch: u64,
    /// Who alone; null: whoever may drive the desktop.
    pub holder: Option<Holder>,
    /// When the holder loses it who does not renew it.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
    /// False while the session's runner has not said yet that its gate knows of the last change.
    pub enforced: bool,
}
