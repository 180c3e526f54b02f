//! How the programs look names up when they are linked statically, as those of the packages are.
//!
//! `/etc/nsswitch.conf` may name plug-ins (mDNS, systemd-resolved, `compat`). A static program would load such a plug-in, with
//! the system's own C library behind it, into its own C library of another version, and die of it at the first name (seen:
//! SIGFPE with Debian 13's `mdns4_minimal` and `myhostname`). The two sources that are built into the C library need no
//! plug-in: files and DNS. systemd-resolved is reached all the same, by the address that it puts into `/etc/resolv.conf`.

/// Looks names up in files and DNS alone, whatever `/etc/nsswitch.conf` says. Nothing happens in a program that is linked
/// dynamically. Each `main` begins with it.
pub fn without_plugins() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, sources) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        configure(database, sources);
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
#[expect(unsafe_code, reason = "the C library has no other way, and no crate wraps this one")]
fn configure(database: &std::ffi::CStr, sources: &std::ffi::CStr) {
    unsafe extern "C" {
        fn __nss_configure_lookup(
            database: *const std::ffi::c_char,
            sources: *const std::ffi::c_char,
        ) -> std::ffi::c_int;
    }
    // SAFETY: both are C strings that live longer than the call, which copies what it keeps. It refuses words that it does
    // not know, and these it knows.
    unsafe { __nss_configure_lookup(database.as_ptr(), sources.as_ptr()) };
}
