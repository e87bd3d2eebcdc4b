//! Folders of decoders that others trained: sizes, weights, text tokenizer.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sidereal::core::CodeVocab;
use sidereal::generator::models::llm::{CodeTokens, DecoderModel};
use sidereal::generator::{NextCodeModel, ScoreNorm};
use sidereal::nn::device::DeviceChoice;
use sidereal::nn::kernels::Precision;
use sidereal::nn::pretrained::ModelFolder;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(sidereal_fuzz::folder);

const CONFIG: &[u8] = br#"{"model_type":"qwen3","vocab_size":8,"hidden_size":4,"intermediate_size":4,"num_hidden_layers":1,
"num_attention_heads":2,"num_key_value_heads":1,"head_dim":2,"tie_word_embeddings":true,"eos_token_id":[1],
"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"original_max_position_embeddings":8}}"#;

/// The tensors that the sizes ask for, all ones.
static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let layer = "model.layers.0";
    let tensors = [
        ("model.embed_tokens".to_owned(), vec![8, 4]),
        ("model.norm".to_owned(), vec![4]),
        (format!("{layer}.input_layernorm"), vec![4]),
        (format!("{layer}.post_attention_layernorm"), vec![4]),
        (format!("{layer}.self_attn.q_proj"), vec![4, 4]),
        (format!("{layer}.self_attn.k_proj"), vec![2, 4]),
        (format!("{layer}.self_attn.v_proj"), vec![2, 4]),
        (format!("{layer}.self_attn.o_proj"), vec![4, 4]),
        (format!("{layer}.self_attn.q_norm"), vec![2]),
        (format!("{layer}.self_attn.k_norm"), vec![2]),
        (format!("{layer}.mlp.gate_proj"), vec![4, 4]),
        (format!("{layer}.mlp.up_proj"), vec![4, 4]),
        (format!("{layer}.mlp.down_proj"), vec![4, 4]),
    ];
    let (mut entries, mut end) = (Vec::new(), 0usize);
    for (name, shape) in &tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        entries.push(format!(r#""{name}.weight":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    (0..end / 4).for_each(|_| bytes.extend(1f32.to_le_bytes()));
    bytes
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let damaged = |sound: &[u8], at: u8| match which % 2 == at {
        true => sidereal_fuzz::almost(&[sound.to_vec()], data),
        false => sound.to_vec(),
    };
    for (name, bytes) in [("config.json", damaged(CONFIG, 0)), ("model.safetensors", damaged(&WEIGHTS, 1))] {
        std::fs::write(FOLDER.join(name), bytes).expect("room for a small file");
    }
    let device = DeviceChoice::Cpu.open().expect("there is a CPU");
    let Ok(model) = DecoderModel::read(&ModelFolder::local(&FOLDER), &device) else { return };
    let vocab = CodeVocab::new(2, &[3, 3]);
    let codes = CodeTokens::counted(&vocab);
    let Ok(inference) = model.inference(&vocab, &codes, Precision::Bf16, true) else { return };
    if let Ok((state, _)) = inference.begin(&[&[0, 2, 7], &[5]], ScoreNorm::Full) {
        let _next = inference.step(&state, &[0, 0, 1], &[0, 2, 1], ScoreNorm::Full);
    }
});
