//! Keepalive settings: few distinct ones are shared by many connections, each of which keeps
//! four bytes. A setting lives as long as a connection has it, so there are never more than
//! connections.

use std::collections::HashMap;

use super::config::Keepalive;

/// The settings in use.
#[derive(Debug, Default)]
pub(super) struct Keepalives {
    /// Each with the number of its connections; 0: free.
    entries: Vec<(Keepalive, u32)>,
    free: Vec<u32>,
    /// From a setting in use to its place.
    places: HashMap<Keepalive, u32>,
}

impl Keepalives {
    /// A number for `setting`, never 0, to be given back to [`Keepalives::release`].
    pub(super) fn take(&mut self, setting: Keepalive) -> u32 {
        let Keepalives { entries, free, places } = self;
        let place = *places.entry(setting).or_insert_with(|| match free.pop() {
            Some(place) => {
                entries[place as usize] = (setting, 0);
                place
            }
            None => {
                entries.push((setting, 0));
                entries.len() as u32 - 1
            }
        });
        entries[place as usize].1 += 1;
        place + 1
    }

    /// Gives a number back; 0 stands for none.
    pub(super) fn release(&mut self, number: u32) {
        let Some(place) = number.checked_sub(1) else { return };
        let Some((setting, users)) = self.entries.get_mut(place as usize) else { return };
        *users -= 1;
        if *users == 0 {
            self.places.remove(setting);
            self.free.push(place);
            if self.places.is_empty() {
                *self = Keepalives::default();
            }
        }
    }

    /// The setting of a number; 0 stands for none.
    pub(super) fn get(&self, number: u32) -> Option<Keepalive> {
        let place = number.checked_sub(1)?;
        self.entries.get(place as usize).map(|(setting, _)| *setting)
    }

    /// How many connections have one.
    pub(super) fn users(&self) -> usize {
        self.entries.iter().map(|(_, users)| *users as usize).sum()
    }

    /// Bytes of memory held, about.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<(Keepalive, u32)>()
            + self.free.capacity() * size_of::<u32>()
            + self.places.capacity() * size_of::<(Keepalive, u32)>()
    }
}
