//! What a refused request still sends.
//!
//! A connection that is closed on unread bytes is reset, and the answer can be lost with it: a client that sends its
//! whole body first would see a broken pipe instead of the problem document. So the rest is read away, within bounds.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::header;
use tokio::time::timeout;

/// Most bytes read away; who sends more is cut off.
const MOST: usize = 16 << 20;
/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Middleware: lends the body to the handler, and after a refusal reads what is left of it.
pub async fn read_away(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    // Who waits for `100 Continue` has not sent anything.
    let waits = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let mut lent = Lent(Arc::new(Mutex::new(body.into_data_stream())));
    let response = next.run(Request::from_parts(head, Body::from_stream(lent.clone()))).await;
    if response.status().as_u16() >= 400 && !waits {
        let rest = async {
            let mut read = 0;
            while let Some(Ok(bytes)) = lent.next().await {
                read += bytes.len();
                if read > MOST {
                    break;
                }
            }
        };
        // Too slow is as good as too much.
        let _ = timeout(DEADLINE, rest).await;
    }
    response
}

/// A body that outlives the handler that reads it. One reader at a time: first the handler, then the middleware.
#[derive(Clone)]
struct Lent(Arc<Mutex<BodyDataStream>>);

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(cx)
    }
}
