//! The public sockets: one table of behaviours that holds on every backend.
//!
//! A behaviour is an `async fn(Ends)`: it runs on one of two hosts, and has the other do what
//! it is told. `backends.rs` makes the pairs of hosts. Over a TAP one host is ours and the other is
//! the kernel's, and each behaviour is asked both ways. Where a host of the kernel's differs, a
//! behaviour says so by [`Host::is_kernel`](world::Host::is_kernel), and so does the table in
//! `docs/ARCHITECTURE.md`.

mod backends;
mod closing;
#[path = "../common/mod.rs"]
mod common;
mod datagrams;
mod listening;
mod opening;
mod options;
mod streams;
mod world;

/// Makes a test of each behaviour for a backend: `near` is the host that it runs on.
macro_rules! backend {
    ($name:ident, $world:expr, $near:ident to $far:ident) => {
        backend!($name, $world, $near to $far;
            closing::half_close_lets_the_other_half_go_on
            closing::the_end_is_the_end_for_as_long_as_it_is_asked
            closing::shutting_down_twice_is_once
            closing::a_read_side_that_is_shut_is_at_its_end_after_the_last_byte
            closing::writing_after_a_shutdown_is_a_broken_pipe
            closing::dropping_with_unread_data_resets
            closing::data_that_comes_after_a_drop_resets
            closing::an_abort_and_a_linger_of_zero_reset
            closing::lingering_for_a_reader_that_never_comes_resets
            closing::what_was_written_outlives_its_stream
            closing::an_aborted_task_closes_its_stream
            closing::both_sides_close_at_once
            datagrams::every_size_comes_back_over_both_families
            datagrams::what_cannot_be_sent_is_refused
            datagrams::a_port_that_nobody_has_is_no_error
            datagrams::a_cancelled_receive_loses_nothing
            datagrams::a_flood_is_cut_and_the_socket_goes_on
            datagrams::ports_are_taken_and_given_back
            datagrams::two_tasks_share_a_socket
            listening::binding_twice_is_refused_and_closing_makes_room
            listening::what_is_not_ours_cannot_be_bound
            listening::any_address_covers_both_families
            listening::connections_are_accepted_in_their_order
            listening::a_cancelled_accept_loses_nothing
            listening::several_tasks_accept
            listening::what_came_before_the_accept_is_there
            listening::a_client_that_left_before_the_accept_is_accepted
            listening::dropping_a_listener_resets_who_waits
            listening::accepted_connections_outlive_their_listener
            listening::a_full_backlog_makes_clients_wait
            listening::many_come_at_once
            opening::a_port_without_listener_refuses
            opening::no_address_of_a_host_is_refused
            opening::a_silent_neighbour_is_unreachable
            opening::a_foreign_address_has_no_route
            opening::a_bound_source_is_used_and_the_same_twice_refused
            opening::a_foreign_source_is_refused
            opening::a_source_of_another_family_is_refused
            opening::a_cancelled_connect_is_gone
            options::all_are_taken_and_info_tells
            options::listeners_and_sockets_choose_their_congestion_control
            options::a_probed_peer_that_answers_stays
            options::small_writes_do_not_wait_for_one_another
            options::a_send_stream_is_a_stream
            streams::bytes_come_back_over_both_families
            streams::both_ends_know_the_same_addresses
            streams::lines_are_read_through_buf_read
            streams::nothing_is_read_and_written_at_once
            streams::empty_pieces_in_front_are_no_end
            streams::a_slow_reader_holds_the_writer_back_and_loses_nothing
            streams::a_chunk_is_taken_whole
            streams::both_directions_are_full_and_move
            streams::a_cancelled_read_loses_nothing
            streams::a_cancelled_write_is_whole_or_not_at_all
            streams::who_asked_last_is_woken
            streams::readable_takes_nothing_away
        );
    };
    ($name:ident, $world:expr, $near:ident to $far:ident; $($group:ident::$case:ident)*) => {
        mod $name {
            $(
                #[test]
                fn $case() {
                    let world: Result<_, String> = $world;
                    match world {
                        Ok(world) => crate::world::run(&world.$near, &world.$far, |ends| {
                            Box::pin(crate::$group::$case(ends))
                        }),
                        Err(why) => println!("skipped: {why}"),
                    }
                }
            )*
        }
    };
}

backend!(memory, crate::backends::memory(), a to b);
backend!(kernel, crate::backends::kernel(), a to b);
backend!(tap_opens, crate::backends::tap(), a to b);
backend!(tap_serves, crate::backends::tap(), b to a);
#[cfg(feature = "dpdk")]
backend!(dpdk_tap_opens, crate::backends::dpdk_tap(), a to b);
#[cfg(feature = "dpdk")]
backend!(dpdk_tap_serves, crate::backends::dpdk_tap(), b to a);
#[cfg(feature = "dpdk")]
backend!(dpdk_memif, crate::backends::dpdk_memif(), a to b);
