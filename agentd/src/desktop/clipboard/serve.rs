//! Gives a text of ours to programs that paste it; a long one in pieces (ICCCM's INCR).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ChangePropertyRequest, ChangeWindowAttributesAux, ChangeWindowAttributesRequest, EventMask,
    PropMode, SELECTION_NOTIFY_EVENT, SelectionNotifyEvent, SelectionRequestEvent, SendEventRequest, Window,
};

use super::super::Result;
use super::super::event::Event;
use super::Clipboard;

/// Most bytes of one piece; far below the longest request of any display.
const PIECE_BYTES: usize = 64 * 1024;
/// Programs that can be given a long text at once; the one that has rested longest is left.
const MAX_TRANSFERS: usize = 16;
/// A program that has not taken its next piece for so long is left.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);

/// A long text on its way to a program.
struct Transfer {
    requestor: Window,
    property: Atom,
    kind: Atom,
    bytes: Arc<[u8]>,
    at: usize,
    moved: Instant,
}

/// Serves until another program owns the clipboard.
pub(super) async fn run(clipboard: Arc<Clipboard>, events: Receiver<Event>) {
    let ended = clipboard.x.ended().clone();
    if let Some(Err(error)) = ended.run_until_cancelled(serve(&clipboard, events)).await {
        tracing::debug!("a clipboard is not served any more: {error}");
        clipboard.replace_own(None);
    }
}

async fn serve(clipboard: &Clipboard, mut events: Receiver<Event>) -> Result<()> {
    let mut transfers: Vec<Transfer> = Vec::new();
    loop {
        match events.recv().await {
            Ok(Event::SelectionRequest(request)) if request.owner == clipboard.window => {
                transfers.retain(|transfer| transfer.moved.elapsed() < TRANSFER_TIMEOUT);
                if let Some(transfer) = answer(clipboard, &request).await? {
                    if transfers.len() >= MAX_TRANSFERS {
                        transfers.remove(0);
                    }
                    transfers.push(transfer);
                }
            }
            Ok(Event::Property { window, atom, deleted: true }) => {
                let wants = |transfer: &Transfer| (transfer.requestor, transfer.property) == (window, atom);
                let Some(index) = transfers.iter().position(wants) else { continue };
                let mut transfer = transfers.remove(index);
                let end = (transfer.at + PIECE_BYTES).min(transfer.bytes.len());
                let piece = &transfer.bytes[transfer.at..end];
                put(clipboard, window, atom, transfer.kind, piece).await?;
                // The empty piece is the end, and goes by itself.
                if !piece.is_empty() {
                    (transfer.at, transfer.moved) = (end, Instant::now());
                    transfers.push(transfer);
                }
            }
            Ok(Event::SelectionClear { owner, selection })
                if owner == clipboard.window
                    && selection == clipboard.atoms.clipboard
                    && clipboard.let_go_if_lost().await? =>
            {
                return Ok(());
            }
            // The news may be among what was missed.
            Err(RecvError::Lagged(_)) if clipboard.let_go_if_lost().await? => return Ok(()),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// Gives a program what it asks for, or says that there is no such thing.
async fn answer(clipboard: &Clipboard, request: &SelectionRequestEvent) -> Result<Option<Transfer>> {
    let atoms = &*clipboard.atoms;
    // Programs of the old times name no property.
    let property = if request.property == x11rb::NONE { request.target } else { request.property };
    let (requestor, text) = (request.requestor, clipboard.own().unwrap_or_else(|| "".into()));
    let utf8 = [atoms.utf8_string, atoms.text, atoms.text_plain, atoms.text_plain_utf8];
    let string = Atom::from(AtomEnum::STRING);
    let mut transfer = None;
    // Whoever asks names any window: what we hear of these two is not changed for it.
    let given = if [clipboard.window, clipboard.x.root()].contains(&requestor) {
        x11rb::NONE
    } else if request.target == atoms.targets {
        let targets = [atoms.targets, string].into_iter().chain(utf8);
        let bytes: Vec<u8> = targets.flat_map(Atom::to_ne_bytes).collect();
        put_words(clipboard, requestor, property, &bytes).await?;
        property
    } else if utf8.contains(&request.target) || request.target == string {
        let latin1 = || text.chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect();
        let bytes: Vec<u8> = if request.target == string { latin1() } else { text.as_bytes().to_vec() };
        let kind = if request.target == string { string } else { atoms.utf8_string };
        if bytes.len() <= PIECE_BYTES {
            put(clipboard, requestor, property, kind, &bytes).await?;
        } else {
            // Its taking of each piece is seen as the property's end.
            let follow = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
            let value_list = Cow::Owned(follow);
            clipboard.x.tell(ChangeWindowAttributesRequest { window: requestor, value_list }).await?;
            let length = (bytes.len() as u32).to_ne_bytes();
            change(clipboard, requestor, property, atoms.incr, 32, &length).await?;
            transfer = Some(Transfer { requestor, property, kind, bytes: bytes.into(), at: 0, moved: Instant::now() });
        }
        property
    } else {
        x11rb::NONE
    };
    let told = SelectionNotifyEvent {
        response_type: SELECTION_NOTIFY_EVENT,
        sequence: 0,
        time: request.time,
        requestor,
        selection: request.selection,
        target: request.target,
        property: given,
    };
    clipboard
        .x
        .tell(SendEventRequest {
            propagate: false,
            destination: requestor,
            event_mask: EventMask::NO_EVENT,
            event: Cow::Owned(told.into()),
        })
        .await?;
    Ok(transfer)
}

async fn put(clipboard: &Clipboard, window: Window, property: Atom, kind: Atom, bytes: &[u8]) -> Result<()> {
    change(clipboard, window, property, kind, 8, bytes).await
}

async fn put_words(clipboard: &Clipboard, window: Window, property: Atom, words: &[u8]) -> Result<()> {
    change(clipboard, window, property, AtomEnum::ATOM.into(), 32, words).await
}

async fn change(
    clipboard: &Clipboard,
    window: Window,
    property: Atom,
    kind: Atom,
    format: u8,
    data: &[u8],
) -> Result<()> {
    clipboard
        .x
        .tell(ChangePropertyRequest {
            mode: PropMode::REPLACE,
            window,
            property,
            type_: kind,
            format,
            data_len: (data.len() / usize::from(format / 8)) as u32,
            data: Cow::Borrowed(data),
        })
        .await
}
