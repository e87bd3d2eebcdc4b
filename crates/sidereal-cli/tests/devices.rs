//! `bench device` runs whole on any device; a device that is not there is an error.
#![allow(clippy::unwrap_used)]

mod world;

use world::World;

const SMALL: [&str; 20] = [
    "bench",
    "device",
    "--json",
    "--items",
    "300",
    "--beam",
    "5",
    "--batches",
    "1,3",
    "--users",
    "5",
    "--runs",
    "1",
    "--constraint-ids",
    "400",
    "--train-batches",
    "4",
    "--steps",
    "2",
    "--quiet",
];

#[test]
fn the_benchmark_of_a_device_holds_it_against_the_cpu() {
    let world = World::new();
    let found = world.json(&[&SMALL[..], &["--precisions", "f32"][..]].concat());
    let agreement = &found["agreement_with_cpu"][0];
    assert_eq!(agreement["shared_of_ten_best"], 1.0, "{found}");
    assert_eq!(agreement["most_score_difference"], 0.0, "the CPU beside itself");
    assert_eq!(found["beam"].as_array().unwrap().len(), 2);
    assert!(found["beam"].as_array().unwrap().iter().all(|row| row["requests_per_s"].as_f64().unwrap() > 0.0));
    assert_eq!(found["constraint"].as_array().unwrap().len(), 2);
    assert_eq!(found["train"][0]["batch"], 4);
    assert_eq!(found["loss_curve"]["device"], found["loss_curve"]["cpu"]);
    let refused = world.refusal(&["bench", "device", "--batches", "0"]);
    assert!(refused.contains("--batches"), "{refused}");
}
