//! The JWTs of NATS's auth callout: the request that nats-server signs, the user and the response that we sign.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use helix_protocol::ids::hex;
use jiff::Timestamp;
use nkeys::KeyPair;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::keys::Keys;

const REQUEST_AUDIENCE: &str = "nats-authorization-request";
/// Every public key of a nats-server begins so.
const SERVER_KEY_PREFIX: char = 'N';

/// Who wants in.
pub struct Asked {
    /// The server that asks.
    pub server_id: String,
    /// The key that the user JWT must be for.
    pub user_nkey: String,
    /// Where the connection comes from.
    pub host: String,
    /// User it gave.
    pub user: Option<String>,
    secret: Option<String>,
}

impl Asked {
    /// The token that the connection showed. Never logged.
    pub fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }
}

/// What a connection may do.
pub struct Permissions {
    /// Shown in the server's lists.
    pub name: String,
    /// Account it is put in.
    pub account: String,
    /// Subjects.
    pub publish: Vec<String>,
    /// Subjects.
    pub subscribe: Vec<String>,
    /// Largest message in bytes.
    pub max_payload: i64,
    /// After this nats-server ends the connection.
    pub ttl: Duration,
}

#[derive(Deserialize)]
struct RequestClaims {
    aud: String,
    iss: String,
    nats: RequestBody,
}

#[derive(Deserialize)]
struct RequestBody {
    server_id: ServerId,
    user_nkey: String,
    #[serde(default)]
    client_info: ClientInfo,
    connect_opts: ConnectOpts,
}

#[derive(Deserialize)]
struct ServerId {
    id: String,
}

#[derive(Default, Deserialize)]
struct ClientInfo {
    #[serde(default)]
    host: String,
}

#[derive(Deserialize)]
struct ConnectOpts {
    #[serde(default)]
    auth_token: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    pass: Option<String>,
}

/// Reads a request and checks that the nats-server it names has signed it.
pub fn parse(payload: &[u8]) -> anyhow::Result<Asked> {
    let text = std::str::from_utf8(payload).context("not text")?;
    let (signed, signature) = text.rsplit_once('.').context("not a JWT")?;
    let (_header, claims) = signed.split_once('.').context("not a JWT")?;
    let claims: RequestClaims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims)?)?;
    ensure!(claims.aud == REQUEST_AUDIENCE, "for another audience");
    ensure!(claims.iss.starts_with(SERVER_KEY_PREFIX), "not from a server");
    ensure!(claims.iss == claims.nats.server_id.id, "in another server's name");
    let signature = URL_SAFE_NO_PAD.decode(signature)?;
    KeyPair::from_public_key(&claims.iss)
        .and_then(|server| server.verify(signed.as_bytes(), &signature))
        .map_err(|err| anyhow::anyhow!("the signature is not the server's: {err}"))?;
    let RequestBody { server_id, user_nkey, client_info, connect_opts } = claims.nats;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(Asked {
        server_id: server_id.id,
        user_nkey,
        host: client_info.host,
        user: given(connect_opts.user),
        secret: given(connect_opts.auth_token).or(given(connect_opts.pass)),
    })
}

/// The user JWT.
pub fn user(keys: &Keys, asked: &Asked, permissions: &Permissions) -> anyhow::Result<String> {
    let now = Timestamp::now().as_second();
    let ttl = i64::try_from(permissions.ttl.as_secs()).context("the life is too long")?;
    sign(
        keys,
        json!({
            "aud": permissions.account,
            "exp": now + ttl,
            "iat": now,
            "iss": keys.callout_issuer(),
            "name": permissions.name,
            "sub": asked.user_nkey,
            "nats": {
                "pub": { "allow": permissions.publish },
                "sub": { "allow": permissions.subscribe },
                "subs": -1,
                "data": -1,
                "payload": permissions.max_payload,
                "type": "user",
                "version": 2,
            },
        }),
    )
}

/// The answer to the server: a user JWT, or why not.
pub fn response(keys: &Keys, asked: &Asked, verdict: Result<String, String>) -> anyhow::Result<String> {
    let mut body = json!({ "type": "authorization_response", "version": 2 });
    match verdict {
        Ok(jwt) => body["jwt"] = Value::String(jwt),
        Err(why) => body["error"] = Value::String(why),
    }
    sign(
        keys,
        json!({
            "aud": asked.server_id,
            "iat": Timestamp::now().as_second(),
            "iss": keys.callout_issuer(),
            "sub": asked.user_nkey,
            "nats": body,
        }),
    )
}

fn sign(keys: &Keys, mut claims: Value) -> anyhow::Result<String> {
    claims["jti"] = Value::String(hex(&Sha256::digest(serde_json::to_vec(&claims)?)));
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let encode = |value: &Value| Ok::<_, serde_json::Error>(URL_SAFE_NO_PAD.encode(serde_json::to_vec(value)?));
    let signed = format!("{}.{}", encode(&header)?, encode(&claims)?);
    let signature = keys.callout_sign(signed.as_bytes()).map_err(|err| anyhow::anyhow!("cannot sign: {err}"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(server: &KeyPair, audience: &str, named: &str) -> String {
        let claims = json!({
            "aud": audience,
            "iss": server.public_key(),
            "nats": {
                "server_id": { "id": named },
                "user_nkey": "UABC",
                "client_info": { "host": "127.0.0.1" },
                "connect_opts": { "user": "r", "pass": "secret" },
            },
        });
        let signed = format!("e30.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = server.sign(signed.as_bytes()).expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn only_a_server_may_ask_and_only_in_its_own_name() {
        let (server, user) = (KeyPair::new_server(), KeyPair::new_user());
        let good = request(&server, REQUEST_AUDIENCE, &server.public_key());
        let asked = parse(good.as_bytes()).expect("a good request");
        assert_eq!((asked.user.as_deref(), asked.secret()), (Some("r"), Some("secret")));
        let mut forged = good.clone();
        forged.replace_range(..4, "e31.");
        for bad in [
            forged,
            request(&server, "else", &server.public_key()),
            request(&server, REQUEST_AUDIENCE, &KeyPair::new_server().public_key()),
            request(&user, REQUEST_AUDIENCE, &user.public_key()),
            String::from("a.b"),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
