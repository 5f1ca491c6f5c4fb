/**
 * The unmodified client java-spiffe against a running Taskmint.
 *
 * <p>{@code check} goes through the Workload API, {@code serve} and {@code call PORT} speak mTLS with
 * a client of another language. Prints {@code ok NAME} or {@code FAIL NAME: why} for each step.
 */
public final class Client {
  private Client() {}

  public static void main(String[] arguments) {
    try {
      switch (arguments.length == 0 ? "" : arguments[0]) {
        case "check" -> new Check().all();
        case "serve" -> Tls.serve();
        case "call" -> Tls.call(Integer.parseInt(arguments[1]));
        default -> {
          System.err.println("usage: Client check | serve | call PORT");
          System.exit(64);
        }
      }
    } catch (Exception error) {
      error.printStackTrace();
      System.exit(1);
    }
    // The client's own threads would go on.
    System.exit(0);
  }

  static void ensure(boolean holds, String why) {
    if (!holds) {
      throw new IllegalStateException(why);
    }
  }
}
