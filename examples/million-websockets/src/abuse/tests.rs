//! The scenarios in small, on the memory device. That with a killed process is run by
//! `cargo xtask test`, over DPDK.

use super::{Link, Scenario, run};

fn is_answered(scenario: Scenario, connections: u32) {
    let report = run(scenario, connections, Link::Memory).unwrap();
    report.print(false).unwrap();
    assert!(report.wrong.is_empty(), "{report:?}");
}

#[test]
fn more_connections_than_the_limit() {
    is_answered(Scenario::Limit, 1_000);
}

#[test]
fn slow_readers_who_are_left_behind() {
    is_answered(Scenario::SlowDrop, 200);
}

#[test]
fn slow_readers_who_are_disconnected() {
    is_answered(Scenario::SlowDisconnect, 200);
}

#[test]
fn a_flood_of_syns() {
    is_answered(Scenario::Flood, 1_000);
}

#[test]
fn more_memory_wanted_than_there_is() {
    is_answered(Scenario::Budget, 1_000);
}
