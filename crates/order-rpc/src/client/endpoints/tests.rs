use proptest::prelude::*;

use super::*;

fn rank() -> impl Strategy<Value = Rank> {
    prop_oneof![
        Just(Rank::Probe),
        Just(Rank::Open),
        Just(Rank::Idle),
        Just(Rank::OpenTried),
        Just(Rank::IdleTried),
        Just(Rank::Ejected),
        Just(Rank::EjectedTried),
    ]
}

fn turn(call: usize, slice: Option<usize>) -> Turn {
    Turn { call, slice }
}

proptest! {
    #[test]
    fn best_addresses_share_calls_and_slices_evenly(
        ranks in prop::collection::vec(rank(), 1..20),
        start in any::<u32>(),
        by_slice in any::<bool>(),
    ) {
        let best = ranks.iter().min().expect("one at least");
        let n_best = ranks.iter().filter(|rank| *rank == best).count();
        let mut shares = vec![0; ranks.len()];
        let start = usize::try_from(start).expect("fits");
        for n in start..start + 3 * n_best {
            let turn = if by_slice { turn(7, Some(n)) } else { turn(n, None) };
            let (chosen, _) = choose(&ranks, turn).expect("one is chosen");
            shares[chosen] += 1;
        }
        for (rank, share) in ranks.iter().zip(shares) {
            prop_assert_eq!(share, if rank == best { 3 } else { 0 });
        }
    }

    #[test]
    fn next_call_of_an_address_takes_its_next_connection(
        n in 1_usize..20,
        call in any::<u32>(),
        slice in any::<Option<u32>>(),
    ) {
        let ranks = vec![Rank::Open; n];
        let index = |n| usize::try_from(n).expect("fits");
        let (call, slice): (usize, _) = (index(call), slice.map(index));
        let (first, lap) = choose(&ranks, turn(call, slice)).expect("one is chosen");
        let distance = if slice.is_some() { 1 } else { n };
        let next = choose(&ranks, turn(call + distance, slice));
        prop_assert_eq!(next, Some((first, lap + 1)));
    }
}

#[test]
fn nobody_is_chosen_from_none() {
    assert_eq!(choose(&[], turn(7, None)), None);
    assert_eq!(choose(&[], turn(7, Some(7))), None);
}

fn endpoints(connections: usize) -> Endpoints {
    Endpoints::new(&RpcClientConfig {
        connections,
        ..RpcClientConfig::new(vec![])
    })
}

fn found(ports: impl IntoIterator<Item = u16>) -> BTreeMap<SocketAddr, Uri> {
    let origin = Uri::from_static("http://orders:1");
    let address = |port| (SocketAddr::from(([127, 0, 0, 1], port)), origin.clone());
    ports.into_iter().map(address).collect()
}

fn n_connections(endpoints: &Endpoints) -> Vec<usize> {
    let rotation = endpoints.rotation.borrow();
    let members = rotation.members.iter();
    members.map(|member| member.connections.len()).collect()
}

#[test]
fn connections_are_spread_over_the_addresses() {
    let endpoints = endpoints(4);
    for (n_addresses, expected) in [
        (1, vec![4]),
        (2, vec![2, 2]),
        (3, vec![2, 2, 2]),
        (5, vec![1; 5]),
        (1, vec![4]),
        (1_000, vec![1; ADDRESSES_MAX]),
    ] {
        endpoints.update(&found(1..=n_addresses), None);
        assert_eq!(n_connections(&endpoints), expected);
    }
}

#[test]
fn known_address_keeps_its_record() {
    let endpoints = endpoints(1);
    endpoints.update(&found([1, 2]), None);
    let record = |n: usize| Arc::as_ptr(&endpoints.rotation.borrow().members[n].endpoint);
    let second = record(1);
    endpoints.update(&found([2, 3]), None);
    assert_eq!(record(0), second);
    assert_ne!(record(1), second);
}

fn picked(endpoints: &Endpoints, call: usize, tried: &Tried) -> u16 {
    let choice = endpoints.pick(turn(call, None), tried, true);
    choice.expect("there is an address").address().port()
}

#[tokio::test]
async fn retry_takes_another_address_unless_that_is_ejected() {
    let endpoints = endpoints(1);
    endpoints.update(&found([1, 2]), None);
    let [first, second] = [0, 1].map(|n| {
        let rotation = endpoints.rotation.borrow();
        Arc::clone(&rotation.members[n].endpoint)
    });
    let mut tried = Tried::default();
    tried.push(first.address);
    for call in 0..4 {
        assert_eq!(picked(&endpoints, call, &tried), 2);
    }
    second.record(Outcome::Draining, second.health.epoch());
    for call in 0..4 {
        assert_eq!(picked(&endpoints, call, &tried), 1);
    }
    assert!(endpoints.has_healthy());
    // With both ejected the one that was not tried is the better guess.
    first.record(Outcome::Draining, first.health.epoch());
    for call in 0..4 {
        assert_eq!(picked(&endpoints, call, &tried), 2);
    }
    assert!(!endpoints.has_healthy());
}
