//! What applications set beyond the defaults: few distinct settings are shared by many
//! connections, each of which keeps four bytes. A setting lives as long as a connection has
//! it, so there are never more than connections.

use std::collections::HashMap;

use super::config::Keepalive;

/// What a connection has been told. The default, which nobody asked for, costs nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Settings {
    pub(super) keepalive: Option<Keepalive>,
    /// User timeout in milliseconds; 0: none.
    pub(super) user_timeout: u32,
    /// Linger time in seconds plus one; 0: not set.
    pub(super) linger: u16,
    /// From how many unsent bytes on the queue takes no more; 0: no matter.
    pub(super) unsent: u32,
}

/// The settings in use.
#[derive(Debug, Default)]
pub(super) struct SettingsTable {
    /// Each with the number of its connections; 0: free.
    entries: Vec<(Settings, u32)>,
    free: Vec<u32>,
    /// From a setting in use to its place.
    places: HashMap<Settings, u32>,
}

impl SettingsTable {
    /// Has the holder of `number` hold `settings`, and gives back what it held.
    pub(super) fn change(&mut self, number: &mut u32, settings: Settings) {
        let new = if settings == Settings::default() { 0 } else { self.take(settings) };
        self.release(std::mem::replace(number, new));
    }

    /// A number for `settings`, never 0, to be given back to [`SettingsTable::release`].
    fn take(&mut self, settings: Settings) -> u32 {
        let SettingsTable { entries, free, places } = self;
        let place = *places.entry(settings).or_insert_with(|| match free.pop() {
            Some(place) => {
                entries[place as usize] = (settings, 0);
                place
            }
            None => {
                entries.push((settings, 0));
                entries.len() as u32 - 1
            }
        });
        entries[place as usize].1 += 1;
        place + 1
    }

    /// Gives a number back; 0 stands for the defaults.
    pub(super) fn release(&mut self, number: u32) {
        let Some(place) = number.checked_sub(1) else { return };
        let Some((settings, users)) = self.entries.get_mut(place as usize) else { return };
        *users -= 1;
        if *users == 0 {
            self.places.remove(settings);
            self.free.push(place);
            if self.places.is_empty() {
                *self = SettingsTable::default();
            }
        }
    }

    /// The settings of a number; 0 stands for the defaults.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Settings {
        match number {
            0 => Settings::default(),
            number => self.entries.get(number as usize - 1).map_or_else(Default::default, |e| e.0),
        }
    }

    /// How many connections have any.
    pub(super) fn users(&self) -> usize {
        self.entries.iter().map(|(_, users)| *users as usize).sum()
    }

    /// Bytes of memory held, about.
    pub(super) fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<(Settings, u32)>()
            + self.free.capacity() * size_of::<u32>()
            + self.places.capacity() * size_of::<(Settings, u32)>()
    }
}
