//! What waits for the engine, bounded in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

/// A message for the engine.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) payload: Bytes,
    /// It has been sent before.
    pub(crate) sent: bool,
}

impl Message {
    /// What keeping it costs, in bytes.
    fn cost(&self) -> usize {
        // Its topic may be gone, and the name kept for this alone.
        size_of::<Message>() + self.topic.len() + self.payload.len()
    }
}

/// Messages in the order in which they were published: those sent and not answered, then those
/// to be sent.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    flight: VecDeque<Message>,
    ready: VecDeque<Message>,
    bytes: usize,
}

impl Queue {
    /// Adds a message; the oldest that are not sent make room. Returns how many were dropped.
    pub(crate) fn push(&mut self, message: Message, max: usize) -> u64 {
        let mut dropped = 0;
        self.bytes += message.cost();
        self.ready.push_back(message);
        while self.bytes > max
            && let Some(oldest) = self.ready.pop_front()
        {
            self.bytes -= oldest.cost();
            dropped += 1;
        }
        dropped
    }

    /// The next to be sent, from now on among those to be answered.
    pub(crate) fn send(&mut self) -> Option<&mut Message> {
        self.flight.push_back(self.ready.pop_front()?);
        self.flight.back_mut()
    }

    /// The engine has answered the oldest.
    pub(crate) fn answered(&mut self) {
        if let Some(message) = self.flight.pop_front() {
            self.bytes -= message.cost();
        }
        if self.len() == 0 {
            // Idle, it holds nothing.
            *self = Queue::default();
        }
    }

    /// The connection is lost: what was not answered is to be sent again, first.
    pub(crate) fn rewind(&mut self) {
        while let Some(message) = self.flight.pop_back() {
            self.ready.push_front(message);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.flight.len() + self.ready.len()
    }

    /// What they cost, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8) -> Message {
        Message { topic: "t".into(), payload: vec![number; 100].into(), sent: false }
    }

    fn numbers(queue: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| queue.send().map(|message| message.payload[0])).collect()
    }

    #[test]
    fn the_oldest_that_are_not_sent_make_room() {
        let max = 4 * message(0).cost();
        let mut queue = Queue::default();
        assert_eq!((0..4).map(|i| queue.push(message(i), max)).sum::<u64>(), 0);
        assert_eq!(queue.send().unwrap().payload[0], 0);
        assert_eq!(queue.send().unwrap().payload[0], 1);
        assert_eq!(queue.push(message(4), max), 1);
        assert_eq!((queue.len(), queue.bytes()), (4, max));
        queue.rewind();
        assert_eq!(numbers(&mut queue), [0, 1, 3, 4]);
        assert_eq!(queue.push(message(5), max), 1, "all others are under way");
        for left in (0..4).rev() {
            queue.answered();
            assert_eq!((queue.len(), queue.bytes()), (left, left * message(0).cost()));
        }
        assert_eq!(queue.push(message(6), 10), 1, "larger than all there may be");
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }
}
