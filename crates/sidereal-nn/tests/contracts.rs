//! What the ops promise beside their gradients: the same bytes for every thread count, refusals that name the cause,
//! dropout's statistics.
#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor, Var};
use sidereal_nn::ops::{self, Attention, CrossEntropy};
use sidereal_nn::optimizer::{AdamW, AdamWConfig};
use sidereal_nn::params::{Init, Params};
use sidereal_nn::rng::Rng;
use sidereal_nn::{Result, clip_grad_norm};

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed, "contracts");
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

/// One transformer block with everything in it, large enough that every op is cut into several tasks.
struct Block {
    params: Params,
    ids: Tensor,
    targets: Tensor,
    mask: Tensor,
}

impl Block {
    fn new() -> Self {
        let (batch, tokens, width, heads, vocab) = (24, 40, 64, 4, 500);
        let mut params = Params::new(&Device::Cpu);
        let mut rng = Rng::new(1, "init");
        for (name, shape, init) in [
            ("table", &[vocab, width][..], Init::Normal(1.0)),
            ("norm", &[width], Init::Ones),
            ("q", &[width, width], Init::XavierNormal),
            ("kv", &[width, 2 * width], Init::XavierNormal),
            ("bias", &[heads, tokens, tokens], Init::Normal(1.0)),
            ("o", &[width, width], Init::XavierUniform),
            ("o.bias", &[width], Init::Uniform(0.1)),
            ("up", &[width, 700], Init::XavierNormal),
            ("down", &[700, width], Init::XavierNormal),
        ] {
            params.var(name, shape, init, &mut rng).unwrap();
        }
        let mut draw =
            |count: usize, limit: usize| -> Vec<u32> { (0..count).map(|_| rng.below(limit) as u32).collect() };
        let ids = Tensor::from_vec(draw(batch * tokens, vocab), (batch, tokens), &Device::Cpu).unwrap();
        let targets = Tensor::from_vec(draw(batch * tokens, vocab), batch * tokens, &Device::Cpu).unwrap();
        let mask: Vec<f32> =
            draw(batch * tokens, 5).iter().map(|d| if *d == 0 { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (batch, tokens), &Device::Cpu).unwrap();
        Self { params, ids, targets, mask }
    }

    fn loss(&self) -> Result<Tensor> {
        let p = |name: &str| self.params.get(name).unwrap().as_tensor();
        let x = ops::embedding(&self.ids, p("table"))?;
        let h = ops::rms_norm(&x, p("norm"), 1e-6)?;
        let args = Attention { key_mask: Some(self.mask.clone()), dropout: Some((0.1, 3)), ..Attention::new(4, 0.25) };
        let (q, kv) = (ops::linear(&h, p("q"))?, ops::linear(&h, p("kv"))?);
        let h = ops::attention(&q, &kv, Some(p("bias")), &args)?;
        let x = ops::add_dropout(&x, &ops::linear_bias(&h, p("o"), p("o.bias"))?, 0.1, 4)?;
        let h = ops::feed_forward_relu(&x, p("up"), p("down"), Some((0.1, 5)))?;
        let h = ops::silu(&ops::gelu_tanh(&ops::dropout(&h, 0.1, 6)?)?)?;
        let x = (x + ops::relu(&h)?)?;
        let logits = ops::tied_head(&x.flatten_to(1)?, p("table"))?;
        ops::cross_entropy(&logits, &self.targets, &CrossEntropy { label_smoothing: 0.1, ..Default::default() })
    }
}

#[test]
fn three_training_steps_have_the_same_bytes_for_every_thread_count() {
    let train = |threads| {
        with_threads(threads, || {
            let block = Block::new();
            let mut optimizer = AdamW::new(block.params.vars().to_vec(), AdamWConfig::default()).unwrap();
            let mut seen = Vec::new();
            for _ in 0..3 {
                let loss = block.loss().unwrap();
                let mut grads = loss.backward().unwrap();
                seen.extend(bits(&loss));
                let norm = clip_grad_norm(&mut grads, block.params.vars(), 0.01).unwrap();
                seen.extend([norm.to_bits() as u32, (norm.to_bits() >> 32) as u32]);
                optimizer.step(&grads, 1e-2).unwrap();
            }
            block.params.vars().iter().for_each(|(_, var)| seen.extend(bits(var)));
            seen
        })
    };
    let one = train(1);
    assert_eq!(one, train(2));
    assert_eq!(one, train(7));
}

#[test]
fn every_parameter_of_a_block_gets_a_gradient() {
    let block = Block::new();
    let grads = block.loss().unwrap().backward().unwrap();
    for (name, var) in block.params.vars() {
        let grad = grads.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_eq!(grad.dims(), var.dims(), "{name}");
        assert!(bits(grad).iter().any(|b| *b != 0), "the gradient of {name} is 0");
    }
}

#[test]
fn backward_twice_gives_the_same_gradients_twice() {
    let block = Block::new();
    let loss = block.loss().unwrap();
    let (first, second) = (loss.backward().unwrap(), loss.backward().unwrap());
    for (_, var) in block.params.vars() {
        assert_eq!(bits(first.get(var).unwrap()), bits(second.get(var).unwrap()));
    }
}

#[test]
fn a_constant_input_gets_no_gradient_and_no_work() {
    let x = normal(&[4, 3], 1);
    let w = Var::from_tensor(&normal(&[3, 2], 2)).unwrap();
    let grads = ops::linear(&x, &w).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&w).is_some() && grads.get(&x).is_none());
}

#[test]
fn dropout_drops_its_share_the_same_way_for_one_seed() {
    let ones = Tensor::ones((1000, 300), candle_core::DType::F32, &Device::Cpu).unwrap();
    let run = |seed, p| ops::dropout(&ones, p, seed).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for p in [0.1f32, 0.5] {
        let kept = run(1, p);
        let share = kept.iter().filter(|v| **v == 0.0).count() as f64 / kept.len() as f64;
        assert!((share - f64::from(p)).abs() < 0.005, "{share}");
        assert!(kept.iter().all(|v| *v == 0.0 || (*v - 1.0 / (1.0 - p)).abs() < 1e-6));
        assert_eq!(kept, run(1, p));
        // Two seeds, and one seed a row further, agree as often as chance does.
        let chance = f64::from(p * p + (1.0 - p) * (1.0 - p));
        let agree = |other: &[f32]| {
            kept.iter().zip(other).filter(|(a, b)| (**a == 0.0) == (**b == 0.0)).count() as f64 / other.len() as f64
        };
        assert!((agree(&run(2, p)) - chance).abs() < 0.01);
        for shift in [1, 2, 300, 1024] {
            assert!((agree(&kept[shift..]) - chance).abs() < 0.01, "shift {shift}");
        }
    }
    assert_eq!(run(1, 0.0), vec![1.0; 300_000]);
}

#[test]
fn refusals_name_the_op_and_what_came() {
    let t = |shape: &[usize]| normal(shape, 1);
    let ids = Tensor::new(&[1u32, 7], &Device::Cpu).unwrap();
    let attention = |q: &[usize], kv: &[usize], bias: &[usize], mask: &[usize], heads| {
        let args = Attention { key_mask: Some(t(mask)), ..Attention::new(heads, 1.0) };
        ops::attention(&t(q), &t(kv), Some(&t(bias)), &args)
    };
    let entropy = |args| ops::cross_entropy(&t(&[2, 5]), &ids, &args);
    let refusals = [
        (ops::linear(&t(&[2, 3]), &t(&[4, 5])), "linear: x has 3 features"),
        (ops::linear(&t(&[2, 3]), &t(&[3])), "weight has shape [3]"),
        (ops::linear(&t(&[]), &t(&[4, 5])), "x is a scalar"),
        (ops::linear_bias(&t(&[2, 4]), &t(&[4, 5]), &t(&[4])), "bias has shape [4], not [5]"),
        (ops::tied_head(&t(&[2, 3]), &t(&[9, 4])), "tied_head: x has 3 features"),
        (ops::rms_norm(&t(&[2, 3]), &t(&[2]), 1e-6), "rms_norm: weight has shape [2], not [3]"),
        (ops::dropout(&t(&[2]), 1.0, 0), "probability is 1"),
        (ops::dropout(&t(&[2]), f32::NAN, 0), "probability is NaN"),
        (ops::add_dropout(&t(&[2]), &t(&[3]), 0.1, 0), "add_dropout: x has shape [3], not [2]"),
        (ops::embedding(&t(&[2]), &t(&[5, 4])), "ids is F32"),
        (ops::embedding(&ids, &t(&[5, 4])), "id 7 at position 1"),
        (ops::feed_forward_relu(&t(&[2, 3]), &t(&[4, 8]), &t(&[8, 3]), None), "up has shape [4, 8], not [3, 8]"),
        (ops::feed_forward_relu(&t(&[2, 3]), &t(&[3, 8]), &t(&[7, 3]), None), "down has shape [7, 3], not [8, 3]"),
        (attention(&[2, 3], &[2, 3, 8], &[2, 3, 3], &[2, 3], 2), "q has shape [2, 3]"),
        (attention(&[2, 3, 4], &[2, 3, 8], &[2, 3, 3], &[2, 3], 3), "4 features cannot be cut into 3 heads"),
        (attention(&[2, 3, 4], &[2, 3, 4], &[2, 3, 3], &[2, 3], 2), "kv has shape [2, 3, 4], not [2, 3, 8]"),
        (attention(&[2, 3, 4], &[2, 5, 8], &[2, 3, 3], &[2, 5], 2), "bias has shape [2, 3, 3], not [2, 3, 5]"),
        (attention(&[2, 3, 4], &[2, 5, 8], &[2, 3, 5], &[2, 3], 2), "key_mask has shape [2, 3], not [2, 5]"),
        (entropy(CrossEntropy::default()), "target 7 of row 1"),
        (entropy(CrossEntropy { temperature: 0.0, ..Default::default() }), "temperature is 0"),
        (entropy(CrossEntropy { label_smoothing: 1.5, ..Default::default() }), "smoothing is 1.5"),
        (ops::cross_entropy(&t(&[3, 5]), &ids, &CrossEntropy::default()), "targets has shape [2], not [3]"),
    ];
    for (result, expected) in refusals {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
        assert!(message.starts_with("op ") && message.contains("; "), "{message:?} names no op or no mend");
    }
}

#[test]
fn a_batch_of_nothing_but_padding_has_loss_zero_and_no_gradient() {
    let logits = Var::from_tensor(&normal(&[2, 5], 1)).unwrap();
    let targets = Tensor::new(&[9u32, 9], &Device::Cpu).unwrap();
    let args = CrossEntropy { ignore: Some(9), ..Default::default() };
    let loss = ops::cross_entropy(&logits, &targets, &args).unwrap();
    assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
    assert!(bits(loss.backward().unwrap().get(&logits).unwrap()).iter().all(|b| *b == 0));
}

#[test]
fn empty_inputs_give_empty_outputs() {
    let none = Tensor::zeros((0, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(ops::linear(&none, &normal(&[3, 2], 1)).unwrap().dims(), [0, 2]);
    assert_eq!(ops::rms_norm(&none, &normal(&[3], 1), 1e-6).unwrap().dims(), [0, 3]);
    assert_eq!(ops::relu(&none).unwrap().dims(), [0, 3]);
    let no_keys = Tensor::zeros((1, 0, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let out = ops::attention(&normal(&[1, 2, 4], 1), &no_keys, None, &Attention::new(2, 1.0)).unwrap();
    assert_eq!(bits(&out), [0; 8]);
}
