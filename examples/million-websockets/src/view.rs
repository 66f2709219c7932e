//! What the terminal shows while the demo runs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::Progress;

/// How often it is drawn anew.
const DRAW: Duration = Duration::from_millis(100);

/// A progress bar on standard error, if that is a terminal; nothing else.
pub(crate) struct View {
    bar: ProgressBar,
    drawn: Instant,
}

impl View {
    /// For a step that is done at `total`.
    pub(crate) fn new(what: &'static str, total: u64) -> View {
        let bar =
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
        // A template that does not parse would only be less pretty.
        let template = "{prefix:10} [{bar:40}] {human_pos}/{human_len} {per_sec} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        View { bar, drawn: Instant::now() }
    }

    /// Shows how far it is, now and then.
    pub(crate) fn at(&mut self, position: u64, progress: &Progress) {
        if self.drawn.elapsed() >= DRAW && !self.bar.is_hidden() {
            self.drawn = Instant::now();
            let failed = progress.failed.load(Ordering::Relaxed);
            self.bar.set_position(position);
            self.bar.set_message(match failed {
                0 => String::new(),
                failed => format!("{failed} failed"),
            });
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
