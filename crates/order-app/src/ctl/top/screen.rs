//! The terminal: drawing, keys, and how it is left as it was found.

use std::{io, thread, time::Duration};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    widgets::Paragraph,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    super::{client::Client, failure::Failure},
    INTERVAL, Question, Readings, View,
};

/// Keys that wait to be read; more than a user types between two drawings.
const KEYS_MAX: usize = 16;

/// The time after which the thread that reads keys looks whether it should end.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// A terminal that is drawn on. It is given back when this is dropped, also by a panic or a signal.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }

    fn draw(&mut self, view: &View) -> io::Result<()> {
        self.0.draw(|frame| draw(view, frame)).map(|_| ())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws a view.
pub fn draw(view: &View, frame: &mut Frame<'_>) {
    let [body, footer] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(view.styled()), body);
    let style = Style::default().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(view.footer()).style(style), footer);
}

/// The action of a key.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    Quit,
    /// Ask before processing is paused, or resumed.
    Ask,
    Confirm,
    Other,
}

impl Action {
    fn of(key: KeyEvent) -> Self {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Self::Quit,
            KeyCode::Char('q') => Self::Quit,
            KeyCode::Char('p') => Self::Ask,
            KeyCode::Char('y') => Self::Confirm,
            _ => Self::Other,
        }
    }
}

/// Shows the system until the user quits.
pub(super) async fn run(client: &Client) -> Result<(), Failure> {
    let mut readings = Readings::default();
    // Without a first reading there is nothing to draw: the failure is told as of any command.
    let mut view = readings.read(client).await?;
    let mut screen = Screen::open()?;
    let mut events = read_events()?;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen.draw(&view)?;
        tokio::select! {
            _ = ticks.tick() => refresh(client, &mut readings, &mut view).await,
            event = events.recv() => match event {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if follow(client, Action::of(key), &mut view).await {
                        return Ok(());
                    }
                }
                // The next drawing has the new size.
                Some(_) => {}
            },
        }
    }
}

/// Reads once more; what cannot be read stays as it was, and says so.
async fn refresh(client: &Client, readings: &mut Readings, view: &mut View) {
    let question = view.question;
    let read = match readings.read(client).await {
        Ok(read) => Some(read),
        Err(failure) => readings.stale(&failure),
    };
    if let Some(read) = read {
        *view = View { question, ..read };
    }
}

/// Does what a key asks for; whether that is to quit.
async fn follow(client: &Client, action: Action, view: &mut View) -> bool {
    match (action, view.question.take()) {
        (Action::Quit, _) => return true,
        (Action::Ask, None) => {
            view.question = Some(if view.cluster.is_paused {
                Question::Resume
            } else {
                Question::Pause
            });
        }
        (Action::Confirm, Some(question)) => {
            let is_paused = question == Question::Pause;
            let context = client.context();
            match client.admin.set_paused(&context, None, is_paused).await {
                Ok(()) => view.cluster.is_paused = is_paused,
                Err(error) => view.error = Some(error.chain()),
            }
        }
        (Action::Ask | Action::Confirm | Action::Other, _) => {}
    }
    false
}

/// Reads what the user does, in a thread: the terminal has no other way. The thread ends when the
/// receiver is gone.
fn read_events() -> io::Result<mpsc::Receiver<Event>> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while !sender.is_closed() {
                let event = match event::poll(KEY_WAIT) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                // A terminal that is gone ends the program.
                let Ok(event) = event else { return };
                if sender.blocking_send(event).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_quit_ask_and_confirm() {
        let key = |code, modifiers| Action::of(KeyEvent::new(code, modifiers));
        let (none, control) = (KeyModifiers::NONE, KeyModifiers::CONTROL);
        assert_eq!(key(KeyCode::Char('q'), none), Action::Quit);
        assert_eq!(key(KeyCode::Char('c'), control), Action::Quit);
        assert_eq!(key(KeyCode::Char('c'), none), Action::Other);
        assert_eq!(key(KeyCode::Char('p'), none), Action::Ask);
        assert_eq!(key(KeyCode::Char('y'), none), Action::Confirm);
        assert_eq!(key(KeyCode::Esc, none), Action::Other);
    }
}
