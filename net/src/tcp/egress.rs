//! Where the engine's segments go: implemented by the stack, called by `poll_transmit`.

use super::segment::Header;
use super::snd::Payload;

/// There is no room for another segment; nothing was sent. The engine keeps the segment and
/// offers it again at the next [`poll_transmit`](super::Engine::poll_transmit).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// The way out for segments.
pub trait Egress {
    /// Sends one segment, or, where `gso_size` is not 0, a run of segments of `gso_size`
    /// payload bytes each (the last may be shorter; FIN and PSH of `segment` belong to the
    /// last one, sequence numbers run on). `cookie` is the connection's, see
    /// [`Engine::set_cookie`](super::Engine::set_cookie); for a reply that belongs to no
    /// connection it starts at 0 and is forgotten.
    ///
    /// A segment that cannot be delivered for another reason than fullness (no route, no
    /// neighbour) is taken and lost; TCP will repeat it.
    ///
    /// # Errors
    /// [`Full`]: nothing was sent, try again next turn.
    fn send(
        &mut self,
        segment: &Header,
        payload: &Payload<'_>,
        gso_size: u16,
        cookie: &mut u32,
    ) -> Result<(), Full>;

    /// The largest payload one `send` may carry by segmentation offload, in bytes; 0: none,
    /// one MSS at a time.
    fn max_payload(&self) -> usize;
}
