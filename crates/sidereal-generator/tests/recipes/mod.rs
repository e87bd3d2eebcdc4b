//! Small recipes of every model, and a small world to train them in.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use candle_core::{Device, Tensor};
use sidereal_core::{
    Catalog, CollisionPolicy, Embeddings, Histories, ItemId, ItemIndex, NoProgress, SemanticIds, Split, SplitRule,
};
use sidereal_generator::models::causal::Positions;
use sidereal_generator::models::liger::LigerConfig;
use sidereal_generator::models::llm::LlmConfig;
use sidereal_generator::models::recgpt::RecgptConfig;
use sidereal_generator::models::rpg::{Decoding, RpgConfig};
use sidereal_generator::models::sasrec::{SasrecConfig, Softmax};
use sidereal_generator::models::setrec::SetrecConfig;
use sidereal_generator::models::tiger::TigerConfig;
use sidereal_generator::{
    GeneratorConfig, Materials, Network, Result, ScoreNorm, TrainJob, TrainOutcome, TrainingConfig, train,
};
use sidereal_nn::rng::Rng;

pub(crate) const CODES: [u32; 3] = [4, 4, 3];

pub(crate) fn training() -> TrainingConfig {
    TrainingConfig {
        batch_size: 8,
        max_steps: Some(6),
        learning_rate: 3e-3,
        warmup_steps: 2,
        validate_every: 4,
        validate_users: 7,
        validate_beam: 10,
        checkpoint_every: 2,
        log_every: 3,
        ..TrainingConfig::default()
    }
}

/// Small recipes of every method, with options that lie on other paths through the code.
pub(crate) fn recipes() -> Vec<(&'static str, GeneratorConfig)> {
    let sasrec = SasrecConfig { d_model: 16, d_ff: 32, max_history: 4, training: training(), ..Default::default() };
    let rpg = RpgConfig {
        d_model: 16,
        d_ff: 24,
        heads: 2,
        layers: 1,
        item_negatives: 9,
        max_history: 4,
        training: training(),
        ..Default::default()
    };
    let recgpt = RecgptConfig {
        d_model: 16,
        d_ff: 24,
        heads: 2,
        layers: 1,
        max_history: 4,
        training: training(),
        ..Default::default()
    };
    let tiger = TigerConfig {
        d_model: 32,
        d_ff: 64,
        heads: 2,
        d_kv: 16,
        layers: 1,
        max_history: 4,
        training: training(),
        ..Default::default()
    };
    let llm = LlmConfig {
        d_model: 32,
        d_ff: 48,
        heads: 4,
        key_heads: 2,
        d_kv: 8,
        layers: 2,
        max_history: 4,
        training: training(),
        ..Default::default()
    };
    vec![
        ("llm", GeneratorConfig::Llm(llm.clone())),
        (
            "llm without norms of heads, scores over all tokens",
            GeneratorConfig::Llm(LlmConfig { head_norms: false, key_heads: 1, score_norm: ScoreNorm::Full, ..llm }),
        ),
        ("tiger", GeneratorConfig::Tiger(tiger.clone())),
        (
            "liger",
            GeneratorConfig::Liger(LigerConfig {
                network: TigerConfig { item_vectors: true, ..tiger },
                ..Default::default()
            }),
        ),
        ("rpg", GeneratorConfig::Rpg(rpg.clone())),
        (
            "rpg over item vectors, all items in the loss",
            GeneratorConfig::Rpg(RpgConfig { item_vectors: true, item_negatives: 0, ..rpg.clone() }),
        ),
        ("rpg along the trie", GeneratorConfig::Rpg(RpgConfig { decoding: Decoding::Trie, ..rpg.clone() })),
        (
            "rpg along the graph, with repeats",
            GeneratorConfig::Rpg(RpgConfig { decoding: Decoding::Graph, repeats: true, ..rpg }),
        ),
        ("recgpt", GeneratorConfig::Recgpt(recgpt.clone())),
        (
            "recgpt without vectors, along the trie",
            GeneratorConfig::Recgpt(RecgptConfig { item_vectors: false, decoding: Decoding::Trie, ..recgpt.clone() }),
        ),
        (
            "recgpt along the graph, with a loss over items and repeats",
            GeneratorConfig::Recgpt(RecgptConfig {
                decoding: Decoding::Graph,
                item_loss: 1.0,
                item_negatives: 9,
                repeats: true,
                ..recgpt
            }),
        ),
        (
            "setrec",
            GeneratorConfig::Setrec(SetrecConfig {
                d_model: 16,
                d_ff: 24,
                layers: 1,
                content_tokens: 2,
                encoder_width: 8,
                max_history: 4,
                training: training(),
                ..Default::default()
            }),
        ),
        ("sasrec", GeneratorConfig::Sasrec(sasrec.clone())),
        (
            "sasrec over both kinds of vectors, cosines, distances",
            GeneratorConfig::Sasrec(SasrecConfig {
                item_vectors: true,
                embedding_dropout: 0.2,
                cosine: true,
                temperature: 0.1,
                positions: Positions::Distance,
                repeats: true,
                ..sasrec.clone()
            }),
        ),
        (
            "sasrec over frozen vectors alone, sampled softmax",
            GeneratorConfig::Sasrec(SasrecConfig {
                item_vectors: true,
                item_embeddings: false,
                softmax: Softmax::Sampled { negatives: 9 },
                ..sasrec
            }),
        ),
    ]
}

pub(crate) struct World {
    pub(crate) catalog: Catalog,
    pub(crate) vectors: Embeddings,
    pub(crate) counts: Vec<u32>,
    pub(crate) histories: Histories,
    pub(crate) split: Split,
}

pub(crate) fn catalog(items: usize) -> Catalog {
    let ids: Vec<ItemId> = (0..items).map(|i| ItemId::from(format!("item {i}"))).collect();
    let codes = (0..items as u16).flat_map(|i| [i % 4, i / 4 % 4, i / 16]).collect();
    Catalog::build(&ids, &SemanticIds::new(3, codes).unwrap(), &CODES, CollisionPolicy::Postings, None).unwrap()
}

pub(crate) fn vectors(items: usize) -> Embeddings {
    let values = (0..items * 6).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    Embeddings::new(items, 6, values).unwrap()
}

/// Users who each walk through `items` items with a stride of their own.
pub(crate) fn world(items: usize) -> World {
    let (mut offsets, mut events) = (vec![0u64], Vec::new());
    for user in 0..12 {
        let (start, stride) = (user * 5 % items, 1 + user % 5);
        events.extend((0..4 + user % 6).map(|i| ((start + i * stride) % items) as ItemIndex));
        offsets.push(events.len() as u64);
    }
    let names = (0..12).map(|u| format!("user {u}")).collect();
    let histories = Histories::new(names, offsets, events, None, None).unwrap();
    let split = Split::new(&histories, SplitRule::LeaveOneOut).unwrap();
    let counts = split.training_popularity(&histories, items);
    World { catalog: catalog(items), vectors: vectors(items), counts, histories, split }
}

impl World {
    pub(crate) fn materials(&self) -> Materials<'_> {
        self.materials_on(&Device::Cpu)
    }

    pub(crate) fn materials_on<'a>(&'a self, device: &'a Device) -> Materials<'a> {
        Materials {
            vectors: Some(&self.vectors),
            training_counts: Some(&self.counts),
            ..Materials::of_catalog(&self.catalog, device)
        }
    }

    pub(crate) fn train(&self, config: &GeneratorConfig, dir: &std::path::Path) -> TrainOutcome {
        self.try_train(config, dir).unwrap()
    }

    pub(crate) fn try_train(&self, config: &GeneratorConfig, dir: &std::path::Path) -> Result<TrainOutcome> {
        let job = TrainJob {
            config,
            histories: &self.histories,
            split: &self.split,
            materials: self.materials(),
            seed: 7,
            work_dir: dir,
            progress: &NoProgress,
        };
        train(&job)
    }
}

/// A network of which no parameter is where it began: numbers that begin as zeros would say nothing.
pub(crate) fn moved(config: &GeneratorConfig, materials: &Materials<'_>) -> Box<dyn Network> {
    let network = config.model().build(materials, 3).unwrap();
    let mut rng = Rng::new(9, "moved");
    for (_, var) in network.params().vars() {
        let noise: Vec<f32> = (0..var.elem_count()).map(|_| rng.normal() as f32 * 0.2).collect();
        var.set(&(var.as_tensor() + Tensor::from_vec(noise, var.dims(), var.device()).unwrap()).unwrap()).unwrap();
    }
    network
}
