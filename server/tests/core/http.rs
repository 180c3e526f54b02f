//! Just enough of an HTTP client to see when each byte of an answer comes.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::harness::{ADMIN_TOKEN, within};

/// An answer whose body is read line by line.
pub struct Answer {
    socket: BufReader<TcpStream>,
    /// Status line and headers, once read.
    pub head: String,
}

impl Answer {
    /// Asks, without waiting for the answer.
    pub async fn ask(address: SocketAddr, path: &str) -> Self {
        Self::send(address, "GET", path, "").await
    }

    /// Sends a request with a JSON body, without waiting for the answer.
    pub async fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> Self {
        let mut socket = TcpStream::connect(address).await.expect("connected");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1
Host: x
Authorization: Bearer {ADMIN_TOKEN}
Content-Type: \
             application/json
Content-Length: {length}

{body}"
        );
        socket.write_all(request.as_bytes()).await.expect("sent");
        Self { socket: BufReader::new(socket), head: String::new() }
    }

    pub async fn read_head(&mut self) {
        while !self.head.ends_with("\r\n\r\n") {
            let read = within("the head", self.socket.read_line(&mut self.head)).await.expect("readable");
            assert!(read > 0, "cut off: {}", self.head);
        }
    }

    /// The next chunk; empty for the last, `None` where the answer broke off.
    pub async fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        within("a chunk", self.socket.read_line(&mut size)).await.ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        within("its bytes", self.socket.read_exact(&mut chunk)).await.ok()?;
        chunk.truncate(size);
        Some(String::from_utf8(chunk).expect("text"))
    }

    /// Takes all until the connection ends; an error where it is broken off.
    pub async fn drained(mut self) -> std::io::Result<()> {
        tokio::io::copy(&mut self.socket, &mut tokio::io::sink()).await.map(|_| ())
    }

    /// The whole body of an answer with a length.
    pub async fn body(mut self) -> serde_json::Value {
        self.read_head().await;
        let length = self
            .head
            .to_lowercase()
            .split("content-length: ")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next().and_then(|length| length.parse().ok()));
        let mut body = vec![0; length.expect("a length")];
        within("the body", self.socket.read_exact(&mut body)).await.expect("whole");
        serde_json::from_slice(&body).expect("JSON")
    }
}

/// Somebody with a token.
#[derive(Clone)]
pub struct Caller {
    pub address: SocketAddr,
    pub token: String,
}

impl Caller {
    pub fn admin(address: SocketAddr) -> Self {
        Self { address, token: ADMIN_TOKEN.to_owned() }
    }

    /// The same place with another token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { address: self.address, token: token.to_owned() }
    }

    /// Asks, without waiting for the answer. `headers` are whole lines.
    pub async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut socket = TcpStream::connect(self.address).await.expect("connected");
        let (token, length) = (&self.token, body.len());
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}");
        let rest = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        socket.write_all(format!("{head}{rest}").as_bytes()).await.expect("sent");
        Answer { socket: BufReader::new(socket), head: String::new() }
    }

    /// Status and body of a JSON answer.
    pub async fn call(&self, method: &str, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        self.call_with(method, path, "", body).await
    }

    /// The same with further header lines.
    pub async fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &serde_json::Value,
    ) -> (u16, serde_json::Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut answer = self.ask(method, path, headers, &body).await;
        answer.read_head().await;
        let status = answer.status();
        (status, answer.body().await)
    }

    pub async fn get(&self, path: &str) -> (u16, serde_json::Value) {
        self.call("GET", path, &serde_json::Value::Null).await
    }

    pub async fn post(&self, path: &str, body: &serde_json::Value) -> (u16, serde_json::Value) {
        self.call("POST", path, body).await
    }
}

impl Answer {
    /// Of a head that was read.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line")
    }
}
