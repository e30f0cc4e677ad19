//! The keyboard: a thread that waits for keys, clicks and changes of size, and can be told to leave them to another program.

#![expect(clippy::disallowed_methods, reason = "waits for its thread in real time")]

use crate::tui::Msg;
use crate::tui::keys::Key;
use crossterm::event::Event;
use crossterm::event::KeyCode;
use crossterm::event::KeyEventKind;
use crossterm::event::KeyModifiers;
use crossterm::event::MouseButton;
use crossterm::event::MouseEvent;
use crossterm::event::MouseEventKind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the keyboard's thread listens before it looks whether it should pause. The last millisecond of it, crossterm spins.
const LISTEN: Duration = Duration::from_secs(1);
/// And after a key: it may be the one for which another program gets the terminal.
const LISTEN_AFTER_KEY: Duration = Duration::from_millis(30);
/// And it is looked so often whether it has heard that it is to pause.
const PAUSED: Duration = Duration::from_millis(10);

/// The thread that waits for keys. It pauses while another program has the terminal.
pub(super) struct Keyboard {
    pause: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    thread: thread::Thread,
}

impl Keyboard {
    pub(super) fn listen(to: mpsc::Sender<Msg>) -> Keyboard {
        let (pause, paused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let flags = (Arc::clone(&pause), Arc::clone(&paused));
        // It ends with the process, or when nobody takes its keys.
        let thread = thread::spawn(move || read_keys(&to, &flags.0, &flags.1)).thread().clone();
        Keyboard { pause, paused, thread }
    }

    pub(super) async fn pause(&self) {
        self.pause.store(true, Ordering::SeqCst);
        while !self.paused.load(Ordering::SeqCst) {
            tokio::time::sleep(PAUSED).await;
        }
    }

    pub(super) fn resume(&self) {
        self.pause.store(false, Ordering::SeqCst);
        self.thread.unpark();
    }
}

fn read_keys(to: &mpsc::Sender<Msg>, pause: &AtomicBool, paused: &AtomicBool) {
    let mut listen = LISTEN;
    while !to.is_closed() {
        if pause.load(Ordering::SeqCst) {
            paused.store(true, Ordering::SeqCst);
            thread::park();
            continue;
        }
        paused.store(false, Ordering::SeqCst);
        let msg = match crossterm::event::poll(listen).and_then(|some| some.then(crossterm::event::read).transpose()) {
            Ok(Some(event)) => translate(&event),
            Ok(None) => None,
            // The terminal is gone: leave as for Ctrl-C.
            Err(_) => Some(Msg::Key(Key::Ctrl('c'))),
        };
        listen = if msg.is_some() { LISTEN_AFTER_KEY } else { LISTEN };
        if let Some(msg) = msg {
            drop(to.blocking_send(msg));
        }
    }
}

fn mouse_event(mouse: &MouseEvent) -> Option<Msg> {
    Some(match mouse.kind {
        MouseEventKind::Down(MouseButton::Left) => Msg::Click { column: mouse.column, row: mouse.row },
        MouseEventKind::ScrollUp => Msg::Key(Key::Up),
        MouseEventKind::ScrollDown => Msg::Key(Key::Down),
        _ => return None,
    })
}

fn translate(event: &Event) -> Option<Msg> {
    let key = match event {
        Event::Resize(width, height) => return Some(Msg::Resized { width: *width, height: *height }),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        Event::Mouse(mouse) => return mouse_event(mouse),
        _ => return None,
    };
    let key = match key.code {
        KeyCode::Char(c) if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Ctrl(c.to_ascii_lowercase()),
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Esc,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        _ => return None,
    };
    Some(Msg::Key(key))
}
