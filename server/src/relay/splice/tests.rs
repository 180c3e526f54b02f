use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use futures::{SinkExt as _, StreamExt as _};

use super::*;

type Client = WebSocketStream<DuplexStream>;

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// A splice between two real WebSocket clients: viewer, runner, the switch that stops it, its end.
async fn spliced(pipe: usize) -> (Client, Client, oneshot::Sender<End>, JoinHandle<End>) {
    let (viewer, viewer_io) = duplex(pipe);
    let (runner, runner_io) = duplex(pipe);
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or(End::Closed) };
    let splice = tokio::spawn(splice(viewer_io, runner_io, stopped));
    let viewer = WebSocketStream::from_raw_socket(viewer, Role::Client, None).await;
    let runner = WebSocketStream::from_raw_socket(runner, Role::Client, None).await;
    (viewer, runner, stop, splice)
}

fn bytes(message: Message) -> Vec<u8> {
    match message {
        Message::Binary(bytes) => bytes.to_vec(),
        Message::Ping(_) | Message::Pong(_) => Vec::new(),
        other => panic!("not data: {other:?}"),
    }
}

async fn read(client: &mut Client, length: usize) -> Vec<u8> {
    let mut data = Vec::new();
    while data.len() < length {
        let message = timeout(PATIENCE, client.next()).await.expect("in time").expect("open").expect("a frame");
        data.extend(bytes(message));
    }
    data
}

/// The close code that a client is told, after whatever data.
async fn close_code(client: &mut Client) -> u16 {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("in time").expect("a close frame").expect("a frame") {
            Message::Close(Some(close)) => return close.code.into(),
            other => drop(bytes(other)),
        }
    }
}

#[tokio::test]
async fn bytes_arrive_in_order_both_ways() {
    let (mut viewer, mut runner, _stop, _splice) = spliced(4096).await;
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect();
    let forth = async {
        for piece in data.chunks(70_001) {
            runner.send(Message::binary(piece.to_vec())).await.expect("taken");
        }
        assert_eq!(read(&mut runner, 5).await, b"hello");
    };
    let back = async {
        viewer.send(Message::binary(b"hello".to_vec())).await.expect("taken");
        assert!(read(&mut viewer, data.len()).await == data, "changed on the way");
    };
    tokio::join!(forth, back);
}

#[tokio::test]
async fn a_viewer_that_does_not_read_holds_its_runner_back() {
    let (mut viewer, mut runner, _stop, _splice) = spliced(4096).await;
    let mut sent = 0;
    let piece = Message::binary(vec![7; 1024]);
    // Two pipes and one read are all that is between the two.
    while timeout(Duration::from_millis(300), runner.send(piece.clone())).await.is_ok() {
        sent += 1024;
        assert!(sent < 4 * READ, "somebody queues");
    }
    assert!(read(&mut viewer, sent).await.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn an_end_is_told_to_the_other_side() {
    let (mut viewer, mut runner, _stop, splice) = spliced(4096).await;
    runner.send(Message::binary(b"last words".to_vec())).await.expect("taken");
    runner.close(None).await.expect("taken");
    assert_eq!(read(&mut viewer, 10).await, b"last words");
    assert_eq!(close_code(&mut viewer).await, 1000);
    drop((viewer, runner));
    assert_eq!(splice.await.expect("no panic"), End::Closed);

    let (viewer, mut runner, _stop, _splice) = spliced(4096).await;
    drop(viewer);
    assert_eq!(close_code(&mut runner).await, 1011);

    let (mut viewer, mut runner, _stop, _splice) = spliced(4096).await;
    viewer.send(Message::text("hello")).await.expect("taken");
    assert_eq!(close_code(&mut viewer).await, 1003);
    assert_eq!(close_code(&mut runner).await, 1003);
}

#[tokio::test]
async fn a_stop_ends_both_sides_with_its_code() {
    for (end, code) in [(End::Revoked, 1008), (End::Shutdown, 1012)] {
        let (mut viewer, mut runner, stop, _splice) = spliced(4096).await;
        stop.send(end).expect("spliced");
        let within = Duration::from_secs(1);
        let codes = async { tokio::join!(close_code(&mut viewer), close_code(&mut runner)) };
        assert_eq!(timeout(within, codes).await.expect("within a second"), (code, code));
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_viewer_that_does_not_read() {
    let (viewer, mut runner, stop, splice) = spliced(4096).await;
    let piece = Message::binary(vec![7; 1024]);
    while timeout(Duration::from_millis(300), runner.send(piece.clone())).await.is_ok() {}
    stop.send(End::Revoked).expect("spliced");
    let end = timeout(2 * GOODBYE, splice).await.expect("in time").expect("no panic");
    assert_eq!(end, End::Revoked);
    drop(viewer);
}

#[tokio::test(start_paused = true)]
async fn sides_are_pinged_and_a_silent_one_is_ended() {
    let (mut viewer, mut runner, _stop, splice) = spliced(4096).await;
    // The viewer lives: it answers pings as it is read. The runner's end is not read.
    let started = Instant::now();
    let viewer = tokio::spawn(async move {
        let mut pings = 0;
        while let Some(Ok(message)) = viewer.next().await {
            match message {
                Message::Close(Some(close)) => return (pings, u16::from(close.code)),
                Message::Ping(_) => pings += 1,
                other => panic!("unexpected {other:?}"),
            }
        }
        panic!("no close frame");
    });
    assert_eq!(splice.await.expect("no panic"), End::Broken);
    assert!((SILENCE..=SILENCE + 2 * PING_EVERY).contains(&started.elapsed()), "{:?}", started.elapsed());
    let (pings, code) = viewer.await.expect("no panic");
    assert!(pings >= 3, "{pings} pings");
    assert_eq!(code, 1011);
    let ping = runner.next().await.expect("open").expect("a frame");
    assert!(matches!(ping, Message::Ping(_)), "{ping:?}");
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let (mut viewer, _runner, _stop, _splice) = spliced(4096).await;
    viewer.send(Message::Ping(bytes::Bytes::from_static(b"here"))).await.expect("taken");
    loop {
        let message = timeout(PATIENCE, viewer.next()).await.expect("in time").expect("open").expect("a frame");
        if let Message::Pong(payload) = message {
            assert_eq!(&payload[..], b"here");
            break;
        }
    }
}
