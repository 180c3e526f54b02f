//! helix-server: args → telemetry → config → build → serve → drain.
fn main() {}
