//! Linux's `struct tcp_info` of a connection, by name and as bytes.

use throng_net::engine::{Info, State};

/// A member of `struct tcp_info`: its name, its place and its size in bytes, its value.
pub type Field = (&'static str, usize, usize, u64);

/// `sizeof(struct tcp_info)` up to the last member written here.
const SIZE: usize = 232;

/// The members that the engine can tell; a script that asks for another is told so.
pub fn fields(info: &Info) -> Vec<Field> {
    let mss = u32::from(info.mss).max(1);
    let segments = |bytes: u32| u64::from(bytes.div_ceil(mss));
    let micros = |time: std::time::Duration| time.as_micros() as u64;
    let scales = (info.snd_scale.unwrap_or(0), info.rcv_scale.unwrap_or(0));
    let options = u64::from(info.timestamps)
        | u64::from(info.sack) << 1
        | u64::from(info.snd_scale.is_some()) << 2
        | u64::from(info.ecn) << 3;
    let ssthresh = if info.ssthresh >= 1 << 30 { 0x7fff_ffff } else { info.ssthresh / mss };
    let unsent = (info.send_queue as u64).saturating_sub(info.in_flight.into());
    vec![
        ("tcpi_state", 0, 1, state(info.state)),
        ("tcpi_ca_state", 1, 1, ca_state(info)),
        ("tcpi_retransmits", 2, 1, info.retries.into()),
        ("tcpi_backoff", 4, 1, info.retries.into()),
        ("tcpi_options", 5, 1, options),
        ("tcpi_snd_wscale", 6, 0, scales.0.into()),
        ("tcpi_rcv_wscale", 6, 0, scales.1.into()),
        ("tcpi_rto", 8, 4, micros(info.rto)),
        ("tcpi_snd_mss", 16, 4, info.mss.into()),
        ("tcpi_unacked", 24, 4, segments(info.in_flight)),
        ("tcpi_sacked", 28, 4, segments(info.sacked)),
        ("tcpi_lost", 32, 4, segments(info.lost)),
        ("tcpi_rtt", 68, 4, micros(info.srtt)),
        ("tcpi_rttvar", 72, 4, micros(info.rttvar)),
        ("tcpi_snd_ssthresh", 76, 4, ssthresh.into()),
        ("tcpi_snd_cwnd", 80, 4, u64::from(info.cwnd / mss)),
        ("tcpi_total_retrans", 100, 4, info.retransmits.into()),
        ("tcpi_bytes_acked", 120, 8, info.bytes_acked),
        ("tcpi_bytes_received", 128, 8, info.bytes_received),
        ("tcpi_notsent_bytes", 144, 4, unsent),
        ("tcpi_min_rtt", 148, 4, micros(info.min_rtt)),
        ("tcpi_snd_wnd", 228, 4, info.snd_wnd.into()),
    ]
}

/// The structure as a process would get it; members that the engine cannot tell are zero.
pub fn bytes(info: &Info) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    for (_, offset, size, value) in fields(info) {
        bytes[offset..offset + size].copy_from_slice(&value.to_ne_bytes()[..size]);
    }
    let scale = |scale: Option<u8>| scale.unwrap_or(0) & 15;
    bytes[6] = scale(info.snd_scale) | scale(info.rcv_scale) << 4;
    bytes
}

/// Linux's TCP_CA_Open, Disorder, Recovery or Loss. After a mark, where Linux is in TCP_CA_CWR, the
/// engine is as ever.
fn ca_state(info: &Info) -> u64 {
    match info {
        Info { timed_out: true, .. } => 4,
        Info { recovering: true, .. } => 3,
        Info { sacked: 1.., .. } => 1,
        _ => 0,
    }
}

/// The number Linux has for a state.
pub fn state(state: State) -> u64 {
    match state {
        State::Established => 1,
        State::SynSent => 2,
        State::SynReceived => 3,
        State::FinWait1 => 4,
        State::FinWait2 => 5,
        State::TimeWait => 6,
        State::Closed => 7,
        State::CloseWait => 8,
        State::LastAck => 9,
        State::Closing => 11,
    }
}
