//! Settings of an engine, drawn.

use std::time::Duration;

use throng_net::tcp::{Config, CongestionControl, Ecn, Options};

use crate::draw::Draw;

/// Settings, often with limits tight enough to be met.
pub fn config(draw: &mut Draw<'_>) -> Config {
    let mut config = Config::default();
    let bits = draw.byte();
    if bits & 1 != 0 {
        config.send_memory = 40_000;
        config.recv_memory = 40_000;
        config.send_buffer = 20_000;
        config.recv_buffer = 20_000;
        config.max_ranges = 5;
        config.max_time_wait = 2;
        config.max_half_open = 3;
        config.max_connections = 5;
    }
    if bits & 2 != 0 {
        config.mss_v4 = 40 + u16::from(draw.byte()) * 4;
        config.mss_v6 = 40 + draw.word() % 9_000;
    }
    config.nodelay = bits & 4 != 0;
    config.black_hole_detection = bits & 8 != 0;
    config.ecn = [Ecn::Passive, Ecn::On, Ecn::Off, Ecn::Passive][usize::from(bits >> 4 & 3)];
    if bits & 20 == 20 {
        config.congestion = CongestionControl::NewReno;
    }
    if bits & 64 != 0 {
        // Cookies for all.
        config.max_half_open = 0;
    }
    if bits & 128 != 0 {
        config.recv_buffer = 1 << (8 + draw.below(18));
        config.send_buffer = 1 << (8 + draw.below(16));
        config.burst = draw.below(40) as u16;
        config.initial_window = 1 + draw.below(20) as u16;
        config.delayed_ack = Duration::from_millis(draw.below(600).into());
        config.rto_min = Duration::from_millis(1 + u64::from(draw.below(1_000)));
    }
    config
}

/// What a SYN offers.
pub fn offer(draw: &mut Draw<'_>, timestamp: u32) -> Options {
    let bits = draw.byte();
    let mut options = Options::default();
    if bits & 1 != 0 {
        options.timestamps = Some((timestamp, 0));
    }
    if bits & 2 != 0 {
        options.sack_permitted = true;
    }
    if bits & 4 != 0 {
        options.window_scale = Some(bits >> 4);
    }
    if bits & 8 != 0 {
        options.mss = Some(draw.of(&[1460, 536, 1, 0, 8_960, 65_535, 100, 1_000]));
    }
    options
}
