//! tshark's expert items of severity warning or error: whose they are, and how many of each.

use std::collections::BTreeMap;

use super::link::{SERVER_V4, SERVER_V6};

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Kernel,
    Server,
}

impl Side {
    /// By a frame's source addresses, as tshark prints them.
    pub(super) fn of(v4: &str, v6: &str) -> Side {
        // An ICMP error carries a second address, after the first.
        let ours = |source: &str| {
            source.split(';').next().is_some_and(|from| from == SERVER_V4 || from == SERVER_V6)
        };
        if ours(v4) || ours(v6) { Side::Server } else { Side::Kernel }
    }
}

/// How a report begins of what came twice (RFC 2883).
pub(super) const TWICE: &str = "D-SACK";

/// What [`count`] reads of each frame that has an item.
pub(super) const FIELDS: [&str; 12] = [
    "frame.number",
    "ip.src",
    "ipv6.src",
    "tcp.stream",
    "tcp.seq",
    "tcp.len",
    "tcp.ack",
    "tcp.options.timestamp.tsval",
    "tcp.options.sack_le",
    "tcp.options.sack_re",
    "_ws.expert.severity",
    "_ws.expert.message",
];

/// Items by who sent the frame and what they say: how many, and the first frame.
///
/// A sender that has data to send reports with that. Where its segments are cut out of a longer
/// one, by the kernel or a device, each has a copy of the options: one report, however many
/// frames it stands in.
pub(super) fn count(items: &str) -> BTreeMap<(Side, String), (u64, String)> {
    let mut counted = BTreeMap::new();
    let mut reports = BTreeMap::new();
    for line in items.lines() {
        let mut fields = line.splitn(FIELDS.len(), '|');
        let fields: [&str; FIELDS.len()] =
            std::array::from_fn(|_| fields.next().unwrap_or_default());
        let [frame, v4, v6, stream, .., severities, messages] = fields;
        let side = Side::of(v4, v6);
        for (severity, message) in severities.split(';').zip(messages.split(';')) {
            if !matches!(severity, "6291456" | "8388608") {
                continue;
            }
            if message.starts_with(TWICE)
                && let Some(report) = Report::of(fields)
                && let Some(last) = reports.insert((stream, side), report)
                && report.was_cut_off(&last)
            {
                continue;
            }
            let entry =
                counted.entry((side, message.to_owned())).or_insert_with(|| (0, frame.to_owned()));
            entry.0 += 1;
        }
    }
    counted
}

/// A frame with a report of what came twice.
#[derive(Clone, Copy)]
struct Report<'a> {
    seq: u64,
    len: u64,
    /// Acknowledgement, time and blocks: what is the same in all that is cut out of one segment.
    copied: [&'a str; 4],
}

impl<'a> Report<'a> {
    fn of(fields: [&'a str; FIELDS.len()]) -> Option<Report<'a>> {
        let [_, _, _, _, seq, len, ack, time, left, right, ..] = fields;
        let (seq, len) = (seq.parse().ok()?, len.parse().ok()?);
        Some(Report { seq, len, copied: [ack, time, left, right] })
    }

    /// Whether both were cut out of one segment, `last` before this one.
    fn was_cut_off(&self, last: &Report) -> bool {
        let follows = last.len > 0 && self.len > 0 && self.seq == last.seq + last.len;
        follows && self.copied == last.copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSACK: &str = "D-SACK Sequence";

    /// A frame of the kernel's on stream 4 with such a report: number, sequence number, length,
    /// acknowledgement, time, block.
    fn report(frame: u32, seq: u32, len: u32, ack: u32, time: u32, block: (u32, u32)) -> String {
        let (left, right) = block;
        format!("{frame}|10.77.0.1||4|{seq}|{len}|{ack}|{time}|{left}|{right}|6291456|{DSACK}\n")
    }

    fn reports(lines: &[String]) -> u64 {
        count(&lines.concat()).get(&(Side::Kernel, DSACK.into())).map_or(0, |found| found.0)
    }

    #[test]
    fn a_report_in_each_part_of_a_cut_segment_is_one() {
        // As captured on a link without offloads: a client that sends a lot.
        let cut = [
            report(49624, 651_601, 1436, 8_001, 57, (6_553, 8_001)),
            report(49625, 653_037, 1436, 8_001, 57, (6_553, 8_001)),
            report(49626, 654_473, 20, 8_001, 57, (6_553, 8_001)),
        ];
        assert_eq!(reports(&cut), 1);
    }

    #[test]
    fn each_report_of_its_own_counts() {
        let first = || report(1, 1_001, 1436, 8_001, 57, (6_553, 8_001));
        let others = [
            // Pure acknowledgements: the range came a third time.
            report(2, 1_001, 0, 8_001, 57, (6_553, 8_001)),
            // Not the next segment; again the first one; another acknowledgement, time, range.
            report(2, 3_873, 1436, 8_001, 57, (6_553, 8_001)),
            first(),
            report(2, 2_437, 1436, 9_449, 57, (6_553, 8_001)),
            report(2, 2_437, 1436, 8_001, 58, (6_553, 8_001)),
            report(2, 2_437, 1436, 8_001, 57, (5_105, 6_553)),
            report(2, 2_437, 1436, 8_001, 57, (6_553, 7_999)),
            report(2, 2_437, 0, 8_001, 57, (6_553, 8_001)),
            // No segment that could be looked at.
            "2|10.77.0.1||4|||||||6291456|D-SACK Sequence\n".into(),
        ];
        for other in others {
            assert_eq!(reports(&[first(), other.clone()]), 2, "{other}");
        }
        let bare = || report(3, 1_001, 0, 8_001, 57, (6_553, 8_001));
        assert_eq!(reports(&[bare(), bare()]), 2);
        let elsewhere = report(2, 2_437, 1436, 8_001, 57, (6_553, 8_001)).replace("||4|", "||5|");
        assert_eq!(reports(&[first(), elsewhere]), 2);
    }

    #[test]
    fn items_count_by_sender_and_severity() {
        let counted = count(
            "7|10.77.0.2||1|1|0|1||||6291456;4194304|Zero;Note\n\
             8||fd77::2|1|1|0|1||||6291456|Zero\n\
             9|10.77.0.1;10.77.0.2||1|1|0|1||||8388608|Bad\n",
        );
        let expected = BTreeMap::from([
            ((Side::Server, "Zero".to_owned()), (2, "7".to_owned())),
            ((Side::Kernel, "Bad".to_owned()), (1, "9".to_owned())),
        ]);
        assert_eq!(counted, expected);
    }
}
