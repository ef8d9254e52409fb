//! Where events and jobs of a traced request are in its trace.

use order_core::{CallContext, CreateOrder, OrderApi as _, TraceParent};

use super::{Rig, ctx, keyed, wanted};

fn trace(n: u8, flags: &str) -> TraceParent {
    TraceParent::parse(&format!("00-{n:032x}-{n:016x}-{flags}")).expect("valid")
}

fn traced(trace_parent: TraceParent) -> CallContext {
    CallContext {
        trace_parent: Some(trace_parent),
        ..ctx()
    }
}

impl Rig {
    /// Of each event and then of each job, in their order.
    fn traces(&self) -> Vec<Option<TraceParent>> {
        let events = self.outside.published.lock().expect("not poisoned");
        let jobs = self.outside.traces.lock().expect("not poisoned");
        let events = events.iter().map(|event| event.trace_parent.clone());
        events.chain(jobs.iter().cloned()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn order_has_the_trace_of_its_request_if_it_is_recorded() {
    for (flags, is_kept) in [("01", true), ("00", false)] {
        for request in [wanted(100), keyed(100, "k")] {
            let rig = Rig::new();
            let ctx = traced(trace(1, flags));
            let created = rig.service.create_order(&ctx, request).await;
            assert!(created.is_ok(), "{created:?}");
            let kept = is_kept.then(|| trace(1, flags));
            assert_eq!(rig.traces(), [kept.clone(), kept]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_order_of_a_batch_has_its_own_trace() {
    let rig = Rig::new();
    let of = |n: u8| CreateOrder {
        trace_parent: (n > 0).then(|| trace(n, "01")),
        ..wanted(100)
    };
    let requests = vec![of(2), of(0), of(3)];
    let ctx = traced(trace(1, "01"));
    let created = rig.service.create_orders(&ctx, requests).await;
    assert!(created.is_ok());
    let own = [Some(trace(2, "01")), None, Some(trace(3, "01"))];
    assert_eq!(rig.traces(), [own.clone(), own].concat());
}
