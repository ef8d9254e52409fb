use order_testkit::clock::RuntimeClock;
use proptest::prelude::*;

use super::*;

fn rank() -> impl Strategy<Value = Rank> {
    let phase = prop_oneof![
        Just(Phase::Serving),
        Just(Phase::NotServing),
        Just(Phase::Pending),
        Just(Phase::Failed),
    ];
    (phase, any::<bool>(), any::<bool>()).prop_map(|(phase, is_ejected, is_tried)| Rank {
        phase,
        is_ejected,
        is_tried,
    })
}

proptest! {
    #[test]
    fn best_addresses_share_calls_evenly(
        ranks in prop::collection::vec(rank(), 1..20),
        start in any::<u32>(),
    ) {
        let best = ranks.iter().min().expect("one at least");
        let n_best = ranks.iter().filter(|rank| *rank == best).count();
        let mut shares = vec![0; ranks.len()];
        let start = usize::try_from(start).expect("fits");
        for call in start..start + 3 * n_best {
            let (chosen, _) = choose(&ranks, call).expect("one is chosen");
            shares[chosen] += 1;
        }
        for (rank, share) in ranks.iter().zip(shares) {
            prop_assert_eq!(share, if rank == best { 3 } else { 0 });
        }
    }

    #[test]
    fn next_call_of_an_address_takes_its_next_connection(n in 1_usize..20, call in any::<u32>()) {
        let ranks = vec![Rank::WORST; n];
        let call = usize::try_from(call).expect("fits");
        let (first, lap) = choose(&ranks, call).expect("one is chosen");
        prop_assert_eq!(choose(&ranks, call + n), Some((first, lap + 1)));
    }
}

#[test]
fn no_address_is_chosen_from_none() {
    assert_eq!(choose(&[], 7), None);
}

#[test]
fn address_that_does_not_serve_comes_after_one_that_is_ejected_or_tried() {
    let rank = |phase, is_ejected, is_tried| Rank {
        phase,
        is_ejected,
        is_tried,
    };
    let ranks = [
        rank(Phase::Serving, false, false),
        rank(Phase::Serving, false, true),
        rank(Phase::Serving, true, false),
        rank(Phase::Serving, true, true),
        rank(Phase::NotServing, false, false),
        rank(Phase::Pending, false, false),
        rank(Phase::Failed, false, false),
    ];
    assert!(ranks.is_sorted());
    assert_eq!(ranks.iter().filter(|rank| rank.is_fresh()).count(), 1);
}

fn endpoints(connections: usize) -> Endpoints {
    let config = RpcClientConfig {
        connections,
        ..RpcClientConfig::new(vec![])
    };
    Endpoints::new(
        &config,
        &Supervisor::new(&(Arc::new(RuntimeClock::new()) as _)),
    )
}

fn found(ports: impl IntoIterator<Item = u16>) -> BTreeMap<SocketAddr, Uri> {
    let origin = Uri::from_static("http://orders:1");
    let address = |port| (SocketAddr::from(([127, 0, 0, 1], port)), origin.clone());
    ports.into_iter().map(address).collect()
}

fn n_connections(endpoints: &Endpoints) -> Vec<usize> {
    let rotation = endpoints.read();
    let members = rotation.members.iter();
    members.map(|member| member.connections.len()).collect()
}

// The tasks that connect never run in the tests below, which wait for nothing.

#[tokio::test]
async fn connections_are_spread_over_the_addresses() {
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

#[tokio::test]
async fn known_address_keeps_its_record() {
    let endpoints = endpoints(1);
    endpoints.update(&found([1, 2]), None);
    let endpoint = |n: usize| Arc::clone(&endpoints.read().members[n].endpoint);
    let second = endpoint(1);
    endpoints.update(&found([2, 3]), None);
    assert!(Arc::ptr_eq(&endpoint(0), &second));
    assert!(!Arc::ptr_eq(&endpoint(1), &second));
}
