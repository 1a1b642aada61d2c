/* A security key made of software, as middleware for OpenSSH (`SecurityKeyProvider`, interface of its PROTOCOL.u2f).
 *
 * Its memory is the key handle, which holds the private key itself, and what it claims is told by the environment:
 *   SK_FLAGS    bit 0 touched, bit 2 verified: these instead of what was asked for, like a key that was tampered with
 *   SK_COUNTER  the number in the next signature, otherwise 1
 * Verification asks for the PIN 1234.
 */
#define OPENSSL_API_COMPAT 0x10100000L
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 0x000a0000, ECDSA = 0, ED25519 = 1, VERIFIED = 0x04, SIZE = 32, POINT = 65 };
enum { GENERAL = -1, UNSUPPORTED = -2, PIN_REQUIRED = -3 };

struct enrolled {
    uint8_t flags;
    uint8_t *public_key; size_t public_key_len;
    uint8_t *key_handle; size_t key_handle_len;
    uint8_t *signature; size_t signature_len;
    uint8_t *attestation_cert; size_t attestation_cert_len;
    uint8_t *authdata; size_t authdata_len;
};

struct signed_ {
    uint8_t flags;
    uint32_t counter;
    uint8_t *sig_r; size_t sig_r_len;
    uint8_t *sig_s; size_t sig_s_len;
};

static uint32_t told(const char *name, uint32_t otherwise) {
    const char *value = getenv(name);
    return value ? (uint32_t)strtoul(value, NULL, 0) : otherwise;
}

static int locked(uint8_t flags, const char *pin) {
    return (flags & VERIFIED) && (!pin || strcmp(pin, "1234"));
}

/* The key on P-256 whose private half is `scalar`. */
static EC_KEY *curve_key(const uint8_t *scalar) {
    EC_KEY *key = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
    const EC_GROUP *group = EC_KEY_get0_group(key);
    BIGNUM *number = BN_bin2bn(scalar, SIZE, NULL);
    EC_POINT *point = EC_POINT_new(group);
    EC_POINT_mul(group, point, number, NULL, NULL, NULL);
    EC_KEY_set_private_key(key, number);
    EC_KEY_set_public_key(key, point);
    EC_POINT_free(point);
    BN_free(number);
    return key;
}

static uint8_t *number(const BIGNUM *value, size_t *length) {
    uint8_t *bytes = malloc(SIZE);
    *length = (size_t)BN_bn2binpad(value, bytes, SIZE);
    return bytes;
}

uint32_t sk_api_version(void) { return VERSION; }

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application, uint8_t flags,
              const char *pin, void *options, struct enrolled **answer) {
    (void)challenge, (void)challenge_len, (void)application, (void)options;
    if (locked(flags, pin)) return PIN_REQUIRED;
    struct enrolled *made = calloc(1, sizeof *made);
    made->flags = flags;
    made->key_handle = malloc(made->key_handle_len = SIZE);
    made->signature = calloc(1, made->signature_len = 1); /* an attestation that nobody asks for */
    if (RAND_bytes(made->key_handle, SIZE) != 1) return GENERAL;
    made->key_handle[0] &= 0x7f; /* below the order of the curve */
    if (alg == ED25519) {
        EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, made->key_handle, SIZE);
        made->public_key = malloc(made->public_key_len = SIZE);
        EVP_PKEY_get_raw_public_key(key, made->public_key, &made->public_key_len);
        EVP_PKEY_free(key);
    } else if (alg == ECDSA) {
        EC_KEY *key = curve_key(made->key_handle);
        made->public_key = malloc(POINT);
        made->public_key_len = EC_POINT_point2oct(EC_KEY_get0_group(key), EC_KEY_get0_public_key(key),
                                                  POINT_CONVERSION_UNCOMPRESSED, made->public_key, POINT, NULL);
        EC_KEY_free(key);
    } else {
        return UNSUPPORTED;
    }
    *answer = made;
    return 0;
}

int sk_sign(uint32_t alg, const uint8_t *data, size_t data_len, const char *application, const uint8_t *key_handle,
            size_t key_handle_len, uint8_t flags, const char *pin, void *options, struct signed_ **answer) {
    (void)options;
    if (key_handle_len != SIZE) return GENERAL;
    if (!getenv("SK_FLAGS") && locked(flags, pin)) return PIN_REQUIRED;
    struct signed_ *made = calloc(1, sizeof *made);
    made->flags = (uint8_t)told("SK_FLAGS", flags);
    made->counter = told("SK_COUNTER", 1);
    uint8_t text[32 + 1 + 4 + 32]; /* WebAuthn's authenticator data, and the hash of what is signed */
    SHA256((const uint8_t *)application, strlen(application), text);
    text[32] = made->flags;
    for (int at = 0; at < 4; at++) text[33 + at] = (uint8_t)(made->counter >> (24 - 8 * at));
    SHA256(data, data_len, text + 37);
    if (alg == ED25519) {
        EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key_handle, SIZE);
        EVP_MD_CTX *context = EVP_MD_CTX_new();
        made->sig_r = malloc(made->sig_r_len = 64);
        EVP_DigestSignInit(context, NULL, NULL, NULL, key);
        int ok = EVP_DigestSign(context, made->sig_r, &made->sig_r_len, text, sizeof text);
        EVP_MD_CTX_free(context);
        EVP_PKEY_free(key);
        if (ok != 1) return GENERAL;
    } else if (alg == ECDSA) {
        EC_KEY *key = curve_key(key_handle);
        uint8_t hash[SHA256_DIGEST_LENGTH];
        SHA256(text, sizeof text, hash);
        ECDSA_SIG *signature = ECDSA_do_sign(hash, sizeof hash, key);
        EC_KEY_free(key);
        if (!signature) return GENERAL;
        made->sig_r = number(ECDSA_SIG_get0_r(signature), &made->sig_r_len);
        made->sig_s = number(ECDSA_SIG_get0_s(signature), &made->sig_s_len);
        ECDSA_SIG_free(signature);
    } else {
        return UNSUPPORTED;
    }
    *answer = made;
    return 0;
}

int sk_load_resident_keys(const char *pin, void *options, void *keys, size_t *count) {
    (void)pin, (void)options, (void)keys, (void)count;
    return UNSUPPORTED;
}
