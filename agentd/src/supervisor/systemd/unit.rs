//! One service as systemd describes it, and what that means for a session.

use zbus::OwnedVariant;

use super::bus::{Bus, BusError, Properties};
use crate::supervisor::{UnitName, UnitStatus};

/// `ExecMainCode` of a process that ended by itself, as in `siginfo_t`.
pub const CLD_EXITED: i32 = 1;
/// Result of a unit in which somebody was killed for lack of memory.
const OOM_KILL: &str = "oom-kill";

/// Which main process: a unit that is started anew has another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MainProcess {
    /// Its pid, also after its end.
    pub pid: u32,
    /// Microseconds since boot at its start.
    pub started: u64,
}

/// A service at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its main process; pid 0 where it never had one.
    pub main: MainProcess,
    /// How that ended (`CLD_…`); 0 while it runs.
    pub code: i32,
    /// Its exit status or signal.
    pub exit: i32,
    /// systemd's word for the unit's end.
    pub result: String,
}

impl Service {
    /// From what systemd tells when it changes. None where this is of the unit's other half.
    pub fn changed(properties: &Properties) -> Option<Self> {
        let number = |name: &str| properties.get(name);
        Some(Self {
            main: MainProcess {
                pid: u32::try_from(number("ExecMainPID")?).ok()?,
                started: u64::try_from(number("ExecMainStartTimestampMonotonic")?).ok()?,
            },
            code: i32::try_from(number("ExecMainCode")?).ok()?,
            exit: i32::try_from(number("ExecMainStatus")?).ok()?,
            result: <&str>::try_from(properties.get("Result")?).ok()?.to_owned(),
        })
    }

    /// How the unit is; None where it never had a main process.
    pub fn status(&self, name: UnitName) -> Option<UnitStatus> {
        let Self { main, code, exit, result } = self;
        if main.pid == 0 {
            return None;
        }
        Some(match *code {
            0 => UnitStatus { name, pid: Some(main.pid), exit_status: None, out_of_memory: false },
            code => UnitStatus {
                name,
                pid: None,
                exit_status: Some(if code == CLD_EXITED { *exit } else { 128 + exit }),
                out_of_memory: result == OOM_KILL,
            },
        })
    }
}

/// A service with the names under which it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Itself.
    pub service: Service,
    /// InvocationID, 32 hex digits.
    pub invocation: String,
    /// `active`, `failed`, `inactive`, …
    pub active: String,
}

/// Reads a service; None where systemd has none of that name that was ever started.
pub async fn read_service(bus: &Bus, unit: &str) -> Result<Option<Loaded>, BusError> {
    let wanted = [
        ("Unit", "InvocationID"),
        ("Unit", "ActiveState"),
        ("Service", "ExecMainPID"),
        ("Service", "ExecMainStartTimestampMonotonic"),
        ("Service", "ExecMainCode"),
        ("Service", "ExecMainStatus"),
        ("Service", "Result"),
    ];
    let [invocation, active, pid, started, code, exit, result] = bus.read(unit, wanted).await?;
    let read = || {
        let invocation = hex(invocation?)?;
        let main = MainProcess { pid: u32::try_from(pid?).ok()?, started: u64::try_from(started?).ok()? };
        let service = Service {
            main,
            code: i32::try_from(code?).ok()?,
            exit: i32::try_from(exit?).ok()?,
            result: String::try_from(result?).ok()?,
        };
        Some(Loaded { service, invocation, active: String::try_from(active?).ok()? })
    };
    Ok(read())
}

/// A slice that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// InvocationID, 32 hex digits.
    pub invocation: String,
    /// What its maker wrote about it.
    pub description: String,
}

/// Reads a slice; None for one that does not live.
pub async fn read_slice(bus: &Bus, slice: &str) -> Result<Option<Slice>, BusError> {
    let wanted = [("Unit", "InvocationID"), ("Unit", "ActiveState"), ("Unit", "Description")];
    let [invocation, active, description] = bus.read(slice, wanted).await?;
    let read = || {
        let lives = String::try_from(active?).ok()? == "active";
        let (invocation, description) = (hex(invocation?)?, String::try_from(description?).ok()?);
        lives.then_some(Slice { invocation, description })
    };
    Ok(read())
}

/// An id of systemd as text; None for the empty one of a unit that was never started.
fn hex(id: OwnedVariant) -> Option<String> {
    let bytes = Vec::<u8>::try_from(id).ok().filter(|bytes| !bytes.is_empty())?;
    Some(helix_protocol::ids::hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_a_shell_tells_it() {
        let main = MainProcess { pid: 7, started: 1 };
        let service = |code, exit| Service { main, code, exit, result: "success".to_owned() };
        let status = |code, exit| service(code, exit).status(UnitName::App).and_then(|status| status.exit_status);
        assert_eq!(status(0, 0), None);
        assert_eq!(status(CLD_EXITED, 3), Some(3));
        assert_eq!(status(2, 9), Some(137));
        assert_eq!(status(3, 11), Some(139));
        assert_eq!(Service::default().status(UnitName::App), None);
        let killed = Service { result: OOM_KILL.to_owned(), ..service(2, 9) };
        assert!(killed.status(UnitName::App).is_some_and(|status| status.out_of_memory));
    }
}
