//! HTTP of agentd's own to its servers.
//!
//! Whom the machine trusts (`/etc/ssl/certs`, or `SSL_CERT_FILE`) is trusted, as WebSockets of a dial and sessions' forwards
//! trust it: a server's certificate is the operator's matter, not ours.

use std::time::Duration;

use reqwest::redirect::Policy;

/// A client for these servers. It holds certificates and connections: whoever calls seldom does not keep it.
pub fn client(servers: &[String], timeout: Duration) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder().timeout(timeout).redirect(Policy::none());
    // A machine that knows no authority at all is one that can speak plain HTTP.
    let secure = servers.iter().any(|server| server.starts_with("https:"));
    if secure { builder.build() } else { builder.tls_certs_only([]).build() }
}
